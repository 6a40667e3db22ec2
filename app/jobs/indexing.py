"""Keep the words of each new job to find it by, a moment after its submission, which does not wait for that."""

from __future__ import annotations

from typing import Final

from app.context import Context
from app.events.readers import read_on
from app.jobs.queries.words import insert_words

READER: Final = "words"
AT_ONCE: Final = 1_000
"""Events that are read in one transaction."""


async def index_words(ctx: Context) -> int:
    """Read on in the log, and keep the words of the jobs that were accepted; return whether there is more, as 1 or 0."""
    async with ctx.db.transaction() as tx:
        events, more = await read_on(tx, READER, ("job.queued",), ctx.now(), limit=AT_ONCE)
        if events:
            await insert_words(tx, [event.job_id for event in events])
    return int(more)
