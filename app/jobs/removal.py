"""Let jobs go that ended long ago, with all that is only about them. What they cost stays: usage does not change."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from app.jobs.queries import removal


async def delete_ended(tx: AsyncConnection, before: datetime, *, limit: int) -> int:
    """Delete jobs that ended before a time and that nothing holds (see `lock_ended`); return how many those were.

    With them go their idempotency keys, the words they are found by, their receipts and their deliveries. Their files lose
    them, which has the archive's housekeeping remove these; their steps and events go with their days.
    """
    jobs = await removal.lock_ended(tx, before, limit=limit)
    if not jobs:
        return 0
    held = await removal.lock_belongings(tx, jobs)
    gone = [job for job in jobs if job.id not in held]
    await removal.delete_jobs(tx, gone)
    return len(gone)
