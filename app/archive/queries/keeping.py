"""SQL of what operators want: try again what failed, and delete what is past its time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow


async def retry_failed(
    tx: AsyncConnection, *, job_after: UUID, patience: timedelta, late_before: datetime, now: datetime
) -> list[UUID]:
    """Have files fetched again that could not be kept, of jobs from this id on, and return theirs; not what was refused.

    They are given up again when their job has been over for so long, though not before the first attempt. That those
    are late whose job was over before `late_before` is no news.
    """
    parameters = {"job_after": job_after, "patience": patience, "late_before": late_before, "now": now}
    return [row.id for row in await tx.execute(_RETRY_FAILED, parameters)]


_RETRY_FAILED: Final = text(
    """
    UPDATE files SET status = 'pending', due_at = :now, refused_count = 0, unrecorded_count = 0,
        give_up_at = greatest(completed_at + CAST(:patience AS interval), :now),
        late_told = late_told OR completed_at < :late_before
    WHERE id IN (
        SELECT id FROM files
        WHERE status = 'failed' AND attempt_count > 0 AND job_id >= :job_after ORDER BY id FOR UPDATE
    )
    RETURNING id
    """
)


async def condemn_files(tx: AsyncConnection, *, stored_before: datetime | None, limit: int) -> int:
    """Have files deleted that were stored before this time (None: none of those), or whose job is gone; return how many."""
    parameters = {"stored_before": stored_before, "limit": limit}
    return int((await tx.execute(_CONDEMN, parameters)).rowcount)


_CONDEMN: Final = text(
    """
    UPDATE files SET status = 'deleted', due_at = NULL, lease_token = NULL
    FROM (
        SELECT id FROM files
        WHERE status <> 'deleted' AND id IN (
            (SELECT id FROM files WHERE status = 'stored' AND stored_at < :stored_before ORDER BY stored_at LIMIT :limit)
            UNION ALL
            (SELECT id FROM files WHERE job_id IS NULL AND status <> 'deleted' ORDER BY id LIMIT :limit)
        )
        ORDER BY id FOR UPDATE
    ) AS condemned
    WHERE files.id = condemned.id
    """
)


async def list_condemned(connection: AsyncConnection, *, after: UUID, limit: int) -> Sequence[AnyRow]:
    """Deleted files that still have objects, in order of id, after this one."""
    return (await connection.execute(_LIST_CONDEMNED, {"after": after, "limit": limit})).all()


_LIST_CONDEMNED: Final = text(
    """
    SELECT id, object FROM files WHERE status = 'deleted' AND object IS NOT NULL AND id > :after ORDER BY id LIMIT :limit
    """
)


async def forget_objects(tx: AsyncConnection, file_ids: Collection[UUID]) -> None:
    """Note that these deleted files have no objects any more."""
    await tx.execute(_FORGET, {"ids": list(file_ids)})


_FORGET: Final = text("UPDATE files SET object = NULL, thumbnail = NULL WHERE id = ANY(CAST(:ids AS uuid[]))")


async def delete_orphaned(tx: AsyncConnection, *, limit: int) -> int:
    """Delete the rows of files that have neither a job nor an object any more; return how many."""
    return int((await tx.execute(_DELETE_ORPHANED, {"limit": limit})).rowcount)


_DELETE_ORPHANED: Final = text(
    """
    DELETE FROM files WHERE id IN (
        SELECT id FROM files WHERE job_id IS NULL AND status = 'deleted' AND object IS NULL ORDER BY id LIMIT :limit
    )
    """
)


async def count_condemned(connection: AsyncConnection, *, stored_before: datetime | None, limit: int) -> int:
    """How many files are to be deleted, or are deleted and still have objects; up to a limit."""
    parameters = {"stored_before": stored_before, "limit": limit}
    return int(await connection.scalar(_COUNT_CONDEMNED, parameters) or 0)


_COUNT_CONDEMNED: Final = text(
    """
    SELECT count(*) FROM (
        SELECT 1 FROM (
            (SELECT 1 FROM files WHERE status = 'stored' AND stored_at < :stored_before LIMIT :limit)
            UNION ALL
            (SELECT 1 FROM files WHERE job_id IS NULL LIMIT :limit)
            UNION ALL
            (SELECT 1 FROM files WHERE status = 'deleted' AND object IS NOT NULL AND job_id IS NOT NULL LIMIT :limit)
        ) AS condemned LIMIT :limit
    ) AS few
    """
)
