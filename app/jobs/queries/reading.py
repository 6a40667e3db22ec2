"""SQL of reading: one job by id, and the history by keyset over (created_at, id)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.paging import Cursor

JOB_COLUMNS: Final = """id, operation, model, status, progress, error, error_code, credit_cost, created_at, completed_at,
    retry_of, CAST(result AS text), CAST(input AS text), CAST(metadata AS text), callback IS NOT NULL AS has_callback"""
"""What the job object is made of. JSON columns come as text."""

OVERDUE: Final = "overdue_at <= :now AND completed_at IS NULL"
"""Which jobs take longer than they should; the first half is what the index on them needs."""

_FIND: Final = text(
    f"""
    SELECT {JOB_COLUMNS} FROM jobs
    WHERE id = :id AND (CAST(:team_id AS uuid) IS NULL OR team_id = :team_id)
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def find_job(connection: AsyncConnection, team_id: UUID | None, job_id: UUID) -> AnyRow | None:
    """A job of this team, or with None of any team; None if there is no such job."""
    return (await connection.execute(_FIND, {"id": job_id, "team_id": team_id})).one_or_none()


async def list_jobs(
    connection: AsyncConnection,
    *,
    team_id: UUID,
    key_id: UUID | None = None,
    status: str | None = None,
    model: str | None = None,
    search: UUID | None = None,
    after: Cursor | None = None,
    limit: int,
) -> Sequence[AnyRow]:
    """A team's jobs, newest first, after the cursor; only those of one key, status or model where given.

    `search` is an id in either world: ours or the upstream's.
    """
    parameters: dict[str, Any] = {"team_id": team_id, "limit": limit}
    conditions = ["team_id = :team_id"]
    for column, value in (("key_id", key_id), ("status", status), ("model", model)):
        if value is not None:
            conditions.append(f"{column} = :{column}")
            parameters[column] = value
    if search is not None:
        conditions.append("(id = :search OR upstream_id = :search_text)")
        parameters |= {"search": search, "search_text": str(search)}
    if after is not None:
        conditions.append("(created_at, id) < (:after_time, :after_id)")
        parameters |= {"after_time": after.created_at, "after_id": after.id}
    where = " AND ".join(conditions)
    statement = f"SELECT {JOB_COLUMNS} FROM jobs WHERE {where} ORDER BY created_at DESC, id DESC LIMIT :limit"  # noqa: S608
    return (await connection.execute(text(statement), parameters)).all()


_MODELS: Final = text(
    """
    WITH RECURSIVE used AS (
        (SELECT model FROM jobs WHERE team_id = :team_id ORDER BY model LIMIT 1)
        UNION ALL
        SELECT (SELECT model FROM jobs WHERE team_id = :team_id AND model > used.model ORDER BY model LIMIT 1)
        FROM used WHERE used.model IS NOT NULL
    )
    SELECT model FROM used WHERE model IS NOT NULL
    """
)


async def list_models(connection: AsyncConnection, team_id: UUID) -> list[str]:
    """The models a team has used: one step through the index for each, however many jobs there are."""
    return [row.model for row in await connection.execute(_MODELS, {"team_id": team_id})]
