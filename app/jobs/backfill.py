"""Have files kept that were not: of jobs that completed while the archive was off, and those that could not be had."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from app.archive.queries import fetching, keeping, reading
from app.archive.queries.fetching import NewFile
from app.clock import first_id
from app.context import Context
from app.jobs import archiving
from app.jobs.outputs import GIVE_UP_AFTER, files_of
from app.jobs.queries.archiving import list_completed

AT_ONCE: Final = 500


async def backfill(ctx: Context, *, since: datetime, told: Callable[[int, int], None]) -> Counter[str]:
    """Keep what is missing of jobs that were submitted since then, and return how many files came to which status.

    `told` hears how many files are done, of how many. Files that their upstream has most likely purged are tried once; what
    is `pending` at the end is tried again by whatever service runs.
    """
    wanted = await _want(ctx, since)
    while True:
        statuses = await _count(ctx, wanted)
        told(len(wanted) - statuses["pending"], len(wanted))
        if not await archiving.run_once(ctx):
            return statuses


async def _want(ctx: Context, since: datetime) -> list[UUID]:
    """Have files fetched that nobody wrote down, and those that failed."""
    now, after = ctx.now(), first_id(since)
    wanted: list[UUID] = []
    while True:
        async with ctx.db.transaction() as tx:
            jobs = await list_completed(tx, after=after, limit=AT_ONCE)
            files = [file for job in jobs for file in files_of(job, ctx.archived, now)]
            wanted += await fetching.insert_files(tx, [_as_late(file, now) for file in files], now=now)
        if len(jobs) < AT_ONCE:
            break
        after = jobs[-1].id
    async with ctx.db.transaction() as tx:
        return wanted + await keeping.retry_failed(
            tx, job_after=first_id(since), patience=GIVE_UP_AFTER, late_before=now - archiving.LATE_AFTER, now=now
        )


def _as_late(file: NewFile, now: datetime) -> NewFile:
    """A file that is written down so late is tried once if it is past its time, and that it is late alarms nobody."""
    return replace(
        file,
        give_up_at=max(file.completed_at + GIVE_UP_AFTER, now),
        late_told=file.completed_at < now - archiving.LATE_AFTER,
    )


async def _count(ctx: Context, file_ids: list[UUID]) -> Counter[str]:
    counts: Counter[str] = Counter()
    async with ctx.db.reading() as connection:
        for start in range(0, len(file_ids), AT_ONCE):
            counts += await reading.count_statuses(connection, file_ids[start : start + AT_ONCE])
    return counts
