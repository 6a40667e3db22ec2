"""SQL of admission: limited teams, and how many of their jobs wait."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.jobs.queries.acceptance import NewJob
from app.statements import Statement


async def find_limits(tx: AsyncConnection, team_ids: Collection[UUID]) -> dict[UUID, AnyRow]:
    """What limits those of these teams that may not submit whatever they like: in number, by names, or by a budget."""
    return {row.id: row for row in await _FIND_LIMITS.fetch(tx, {"ids": list(team_ids)})}


_FIND_LIMITS: Final = Statement(
    """
    SELECT id, queued_limit, allowed_operations, allowed_models FROM teams
    WHERE id = ANY(CAST(:ids AS uuid[]))
        AND (queued_limit IS NOT NULL OR allowed_operations IS NOT NULL OR allowed_models IS NOT NULL
            OR monthly_credits IS NOT NULL)
    """
)


async def lock_queues(tx: AsyncConnection, team_ids: Collection[UUID]) -> dict[UUID, int]:
    """How many jobs of these teams may wait, for those that have such a limit; their rows are locked in this order."""
    return {row.id: row.queued_limit for row in await _LOCK_QUEUES.fetch(tx, {"ids": list(team_ids)})}


_LOCK_QUEUES: Final = Statement(
    """
    SELECT id, queued_limit FROM teams WHERE id = ANY(CAST(:ids AS uuid[])) AND queued_limit IS NOT NULL
    ORDER BY id FOR NO KEY UPDATE
    """
)


async def list_kept(tx: AsyncConnection, job_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these jobs are there already."""
    rows = await tx.execute(text("SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))"), {"ids": list(job_ids)})
    return {row.id for row in rows}


async def count_waiting(tx: AsyncConnection, account: str, limits: Mapping[UUID, int]) -> dict[UUID, int]:
    """How many jobs of each locked team wait to be sent, counted no further than its limit."""
    parameters = {"account": account, "ids": list(limits), "limits": list(limits.values())}
    return {row.id: row.waiting for row in await _COUNT_WAITING.fetch(tx, parameters)}


_COUNT_WAITING: Final = Statement(
    """
    SELECT team.id, (
        SELECT count(*) FROM (
            SELECT 1 FROM jobs
            WHERE upstream_account = :account AND team_id = team.id
                AND dispatch_at IS NOT NULL AND ambiguous_since IS NULL
            LIMIT team.most
        ) AS found
    ) AS waiting
    FROM unnest(CAST(:ids AS uuid[]), CAST(:limits AS integer[])) AS team (id, most)
    """
)


async def delete_idempotency_keys(tx: AsyncConnection, jobs: Collection[NewJob]) -> None:
    """Let the keys go that this transaction claimed for jobs that are not kept."""
    await _DELETE_KEYS.fetch(
        tx,
        {
            "team_ids": [job.team_id for job in jobs],
            "keys": [job.idempotency_key for job in jobs],
            "job_ids": [job.id for job in jobs],
        },
    )


_DELETE_KEYS: Final = Statement(
    """
    DELETE FROM idempotency_keys k
    USING unnest(CAST(:team_ids AS uuid[]), CAST(:keys AS text[]), CAST(:job_ids AS uuid[])) AS gone (team_id, key, job_id)
    WHERE k.team_id = ANY(CAST(:team_ids AS uuid[])) AND k.key = ANY(CAST(:keys AS text[]))
        AND k.team_id = gone.team_id AND k.key = gone.key AND k.job_id = gone.job_id
    """
)
