"""SQL of jobs whose files are kept: lock them while that is recorded, and read what is announced."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.jobs.queries.reading import ANNOUNCED_COLUMNS
from app.statements import Statement


async def lock_archived(tx: AsyncConnection, job_ids: Collection[UUID]) -> set[UUID]:
    """Lock jobs until the commit, in order of id, and return those that there are."""
    return {row.id for row in await _LOCK.fetch(tx, {"ids": sorted(job_ids)})}


_LOCK: Final = Statement("SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE")


async def list_announced(tx: AsyncConnection, job_ids: Collection[UUID]) -> Sequence[AnyRow]:
    """Jobs as they are announced, in order of id."""
    return await _LIST.fetch(tx, {"ids": sorted(job_ids)})


_LIST: Final = Statement(
    f"SELECT {ANNOUNCED_COLUMNS} FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id"  # noqa: S608 - a constant
)


async def mark_told(tx: AsyncConnection, job_ids: Collection[UUID]) -> set[tuple[UUID, str]]:
    """Note that of these jobs, which this transaction holds, it is told what was stored and what failed.

    Returns the jobs and statuses of files of which that was not told before.
    """
    return {(row.job_id, row.status) for row in await _MARK_TOLD.fetch(tx, {"ids": sorted(job_ids)})}


_MARK_TOLD: Final = Statement(
    """
    UPDATE files SET told = true
    FROM (
        SELECT id FROM files
        WHERE job_id = ANY(CAST(:ids AS uuid[])) AND status IN ('stored', 'failed') AND NOT told ORDER BY id FOR UPDATE
    ) AS news
    WHERE files.id = news.id RETURNING job_id, status
    """
)


async def list_late(tx: AsyncConnection, *, completed_before: datetime, limit: int) -> list[UUID]:
    """Jobs that ended so long ago, have files that are still to be fetched, and were not told of for that."""
    parameters = {"completed_before": completed_before, "limit": limit}
    return [row.job_id for row in await _LIST_LATE.fetch(tx, parameters)]


_LIST_LATE: Final = Statement(
    """
    SELECT DISTINCT job_id FROM (
        SELECT job_id FROM files
        WHERE due_at IS NOT NULL AND completed_at < :completed_before AND NOT late_told AND job_id IS NOT NULL
        ORDER BY completed_at LIMIT :limit
    ) AS late
    """
)


async def mark_late(tx: AsyncConnection, job_ids: Collection[UUID]) -> set[UUID]:
    """Note that these jobs, which this transaction holds, were told of; return those that have such files still."""
    return {row.job_id for row in await _MARK_LATE.fetch(tx, {"ids": sorted(job_ids)})}


_MARK_LATE: Final = Statement(
    """
    UPDATE files SET late_told = true
    FROM (
        SELECT id FROM files
        WHERE job_id = ANY(CAST(:ids AS uuid[])) AND status = 'pending' AND NOT late_told ORDER BY id FOR UPDATE
    ) AS late
    WHERE files.id = late.id RETURNING job_id
    """
)


async def list_completed(tx: AsyncConnection, *, after: UUID, limit: int) -> Sequence[AnyRow]:
    """Completed jobs in order of id, after this one: what their files are found by. Results come as text."""
    return await _LIST_COMPLETED.fetch(tx, {"after": after, "limit": limit})


_LIST_COMPLETED: Final = Statement(
    """
    SELECT id, team_id, operation, status, CAST(result AS text), completed_at FROM jobs
    WHERE id > :after AND status = 'COMPLETED' ORDER BY id LIMIT :limit
    """
)
