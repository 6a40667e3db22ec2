"""SQL of what operators look at. Nothing here locks or writes, and no count goes on without an end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.jobs.queries.reading import JOB_COLUMNS


async def find_traced_job(
    connection: AsyncConnection, team_id: UUID | None, *, job_id: UUID | None, upstream_id: str
) -> AnyRow | None:
    """The job with this id, ours or else the upstream's, of this team, or with None of any: the job object and more."""
    parameters = {"team_id": team_id, "job_id": job_id, "upstream_id": upstream_id}
    return (await connection.execute(_FIND_TRACED_JOB, parameters)).one_or_none()


_FIND_TRACED_JOB: Final = text(
    f"""
    SELECT {JOB_COLUMNS}, key_id, priority, idempotency_key, upstream_id, accepted_at, overdue_at, dispatch_count,
        dispatch_at, poll_count, poll_at, (SELECT name FROM teams WHERE teams.id = team_id) AS team
    FROM jobs
    WHERE (id = :job_id OR upstream_id = :upstream_id) AND (CAST(:team_id AS uuid) IS NULL OR team_id = :team_id)
    ORDER BY id = :job_id DESC NULLS LAST, created_at DESC LIMIT 1
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def list_happenings(
    connection: AsyncConnection, job_id: UUID, *, since: datetime, limit: int
) -> Sequence[AnyRow]:
    """The newest steps and receipts of a job, newest first, as (at, what, by, data), the last one JSON in text.

    What happened at the same time is told with causes before their effects, and so, newest first, after them. `since`
    only spares the look into the partitions of earlier days.
    """
    return (await connection.execute(_LIST_HAPPENINGS, {"job_id": job_id, "since": since, "limit": limit})).all()


_LIST_HAPPENINGS: Final = text(
    """
    SELECT at, what, by, CAST(data AS text) AS data
    FROM (
        SELECT id, at, kind AS what, source AS by, data
        FROM steps WHERE job_id = :job_id AND at >= :since
        UNION ALL
        SELECT id, received_at, 'webhook', 'webhook', jsonb_build_object(
            'event', event, 'signature', signature, 'outcome', outcome, 'applied', applied, 'receiptId', id
        )
        FROM receipts WHERE job_id = :job_id
    ) AS happening
    ORDER BY at DESC,
        array_position(ARRAY['action', 'dispatch', 'webhook', 'poll', 'transition'], what) DESC, id DESC
    LIMIT :limit
    """
)


async def list_key_names(connection: AsyncConnection, key_ids: Iterable[UUID]) -> dict[UUID, str]:
    """The names of these API keys; one that is gone is left out."""
    statement = text("SELECT id, name FROM api_keys WHERE id = ANY(CAST(:ids AS uuid[]))")
    return {row.id: row.name for row in await connection.execute(statement, {"ids": list(key_ids)})}
