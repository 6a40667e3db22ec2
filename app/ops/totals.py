"""Count what the event log tells of jobs in numbers that only grow, as counters have to.

Tallies take an end back where the upstream's word comes after our own conclusion; here both ends stay counted. Whoever
reads on holds the reader's place until the commit, so that each event is counted once, whatever crashes.
"""

from __future__ import annotations

from typing import Final

from app.context import Context
from app.events.readers import read_on
from app.ops import total_queries as queries

READER: Final = "totals"
AT_ONCE: Final = 1000


async def run_once(ctx: Context) -> int:
    """Count the next events; return how many there may have been, 0 where there are no more, or another process counts."""
    async with ctx.db.transaction() as tx:
        events, more = await read_on(tx, READER, queries.TYPES, ctx.now(), limit=AT_ONCE)
        if events:
            await queries.add_events(tx, events, ctx.now())
    return AT_ONCE if more else 0
