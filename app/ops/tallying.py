"""Count jobs as the event log tells of them. A job is counted in the span it was submitted in and in that of its end, once.

Whoever reads on holds the reader's place until the commit, so that each event is counted once, whatever crashes.
"""

from __future__ import annotations

from typing import Final

from app.context import Context
from app.events.readers import read_on
from app.models.ops import TALLIES
from app.ops import tally_queries as queries

AT_ONCE: Final = 1000

BATCH: Final = 1000
"""Rows that are forgotten in one transaction: few enough to be done in no time."""


async def run_once(ctx: Context) -> int:
    """Count the next events; return how many, or 0 where there are no more, or another process counts them just now."""
    async with ctx.db.transaction() as tx:
        events, more = await read_on(tx, TALLIES, queries.TYPES, ctx.now(), limit=AT_ONCE)
        if events:
            await queries.add_events(tx, events, ctx.now())
    return AT_ONCE if more else 0


async def prune_once(ctx: Context) -> int:
    """Forget some tallies that nobody looks at any more; return how many rows those were."""
    forgotten = 0
    for span, kept in queries.KEPT.items():
        async with ctx.db.transaction() as tx:
            forgotten += await queries.delete_old(tx, span, ctx.now() - kept, limit=BATCH)
    return forgotten
