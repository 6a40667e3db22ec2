"""SQL of reading: one file for whoever asks for it, all of them for whoever checks them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow


async def find_file(connection: AsyncConnection, team_id: UUID | None, file_id: UUID) -> AnyRow | None:
    """A file of this team, or with None of any, whatever became of it; None if there is no such file."""
    return (await connection.execute(_FIND, {"id": file_id, "team_id": team_id})).one_or_none()


_FIND: Final = text(
    """
    SELECT id, job_id, team_id, status, object, thumbnail, content_type, byte_count, sha256, stored_at
    FROM files WHERE id = :id AND (CAST(:team_id AS uuid) IS NULL OR team_id = :team_id)
    """
)


async def list_files_of(connection: AsyncConnection, job_id: UUID) -> Sequence[AnyRow]:
    """The files of a job in order of their places, whatever became of them."""
    return (await connection.execute(_LIST_OF_JOB, {"job_id": job_id})).all()


_LIST_OF_JOB: Final = text(
    """
    SELECT id, position, source, status, reason, due_at, attempt_count, stored_at, content_type, byte_count, width, height,
        thumbnail IS NOT NULL AS has_thumbnail, lease_token IS NOT NULL AS is_leased
    FROM files WHERE job_id = :job_id ORDER BY position
    """
)


async def list_stored(connection: AsyncConnection, *, after: UUID, limit: int) -> Sequence[AnyRow]:
    """Stored files, in order of id, after this one."""
    return (await connection.execute(_LIST_STORED, {"after": after, "limit": limit})).all()


_LIST_STORED: Final = text(
    """
    SELECT id, job_id, object, byte_count, sha256 FROM files
    WHERE status = 'stored' AND id > :after ORDER BY id LIMIT :limit
    """
)


async def count_stored(connection: AsyncConnection) -> int:
    """How many files are stored: for the progress of whoever goes through all of them anyway."""
    return int((await connection.execute(text("SELECT count(*) FROM files WHERE status = 'stored'"))).scalar_one())


async def list_needed_objects(connection: AsyncConnection, file_ids: Collection[UUID]) -> set[str]:
    """The names of the objects and thumbnails of these files."""
    rows = (await connection.execute(_LIST_NEEDED, {"ids": list(file_ids)})).all()
    return {name for row in rows for name in (row.object, row.thumbnail) if name is not None}


_LIST_NEEDED: Final = text("SELECT object, thumbnail FROM files WHERE id = ANY(CAST(:ids AS uuid[]))")


async def list_unfetched(connection: AsyncConnection, file_ids: Collection[UUID]) -> set[UUID]:
    """Which of these files are still to be fetched: what lies in the storage of them may be under way."""
    return {row.id for row in await connection.execute(_LIST_UNFETCHED, {"ids": list(file_ids)})}


_LIST_UNFETCHED: Final = text("SELECT id FROM files WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'pending'")


async def count_statuses(connection: AsyncConnection, file_ids: Collection[UUID]) -> Counter[str]:
    """How many of these files are in which status."""
    statement = text("SELECT status, count(*) AS n FROM files WHERE id = ANY(CAST(:ids AS uuid[])) GROUP BY status")
    return Counter({row.status: row.n for row in await connection.execute(statement, {"ids": list(file_ids)})})
