"""SQL of what operators look at. Nothing here locks or writes, and no count goes on without an end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.jobs.queries.reading import JOB_COLUMNS, OVERDUE
from app.models.jobs import IN_FLIGHT


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
    connection: AsyncConnection, job_id: UUID, *, told_team: UUID | None, since: datetime, limit: int
) -> Sequence[AnyRow]:
    """The newest steps, receipts and attempts to tell of a job, newest first: (at, what, by, data), the last JSON in text.

    What happened at the same time is told with causes before their effects, and so, newest first, after them. Of
    deliveries only those to `told_team` are told, with None those to anybody. `since` only spares the look into the
    partitions of earlier days.
    """
    parameters = {"job_id": job_id, "told_team": told_team, "since": since, "limit": limit}
    return (await connection.execute(_LIST_HAPPENINGS, parameters)).all()


_TO_TEAM: Final = "(CAST(:told_team AS uuid) IS NULL OR team_id = :told_team)"

_LIST_HAPPENINGS: Final = text(
    f"""
    SELECT at, what, by, CAST(data AS text) AS data
    FROM (
        SELECT id, at, kind AS what, source AS by, data
        FROM steps WHERE job_id = :job_id AND at >= :since
        UNION ALL
        SELECT id, received_at, 'webhook', 'webhook', jsonb_build_object(
            'event', event, 'signature', signature, 'outcome', outcome, 'applied', applied, 'receiptId', id
        )
        FROM receipts WHERE job_id = :job_id
        UNION ALL
        SELECT a.id, a.at, 'attempt', coalesce(CAST(d.subscription_id AS text), 'callback'), jsonb_build_object(
            'event', d.event_type, 'attempt', a.number, 'httpStatus', a.status, 'error', a.error, 'seconds', a.seconds,
            'nextAttemptAt', to_char(a.next_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'deliveryId', d.id
        )
        FROM deliveries d JOIN attempts a ON a.delivery_id = d.id
        WHERE d.job_id = :job_id AND {_TO_TEAM} AND a.at >= :since
        UNION ALL
        SELECT id, ended_at, 'delivery', coalesce(CAST(subscription_id AS text), 'callback'), jsonb_build_object(
            'event', event_type, 'status', status, 'reason', reason, 'deliveryId', id
        )
        FROM deliveries
        WHERE job_id = :job_id AND ended_at IS NOT NULL AND status IN ('undelivered', 'dropped') AND {_TO_TEAM}
    ) AS happening
    ORDER BY at DESC, array_position(
        ARRAY['action', 'dispatch', 'webhook', 'poll', 'transition', 'archive', 'attempt', 'delivery'], what
    ) DESC, id DESC
    LIMIT :limit
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def list_key_names(connection: AsyncConnection, key_ids: Iterable[UUID]) -> dict[UUID, str]:
    """The names of these API keys; one that is gone is left out."""
    statement = text("SELECT id, name FROM api_keys WHERE id = ANY(CAST(:ids AS uuid[]))")
    return {row.id: row.name for row in await connection.execute(statement, {"ids": list(key_ids)})}


async def find_account(connection: AsyncConnection, account: str) -> AnyRow | None:
    """What was learned of an upstream account, and whether it is paused."""
    return (await connection.execute(_FIND_ACCOUNT, {"account": account})).one_or_none()


_FIND_ACCOUNT: Final = text(
    """
    SELECT cap, cap_lowered_to, cap_lowered_until, paused_at, webhook_field, webhook_events, trouble, trouble_at,
        request_tokens, request_tokens_at, updated_at
    FROM upstream_accounts WHERE id = :account
    """
)


async def list_upstream_keys(connection: AsyncConnection, account: str) -> Sequence[AnyRow]:
    """The circuit breakers of an account's keys, those that are not in use any more among them."""
    return (await connection.execute(_LIST_UPSTREAM_KEYS, {"account": account})).all()


_LIST_UPSTREAM_KEYS: Final = text(
    "SELECT fingerprint, failure_count, held_until, hold_reason, must_probe FROM upstream_keys WHERE account = :account"
)


async def list_paused_teams(connection: AsyncConnection) -> list[str]:
    """The names of the teams for which nothing is sent."""
    rows = await connection.execute(text("SELECT name FROM teams WHERE paused_at IS NOT NULL ORDER BY name"))
    return [row.name for row in rows]


async def list_pauses(connection: AsyncConnection) -> Sequence[AnyRow]:
    """The teams for which nothing is sent (id, name, paused_at), the one that was paused first before the others."""
    rows = await connection.execute(
        text("SELECT id, name, paused_at FROM teams WHERE paused_at IS NOT NULL ORDER BY paused_at, id LIMIT 500")
    )
    return rows.all()


async def count_jobs(connection: AsyncConnection, account: str, *, now: datetime, limit: int) -> AnyRow:
    """How many jobs of an account wait, are in flight, are ambiguous, and since when the oldest waits; how many of any
    account are overdue.

    Waiting and overdue ones are counted up to `limit`; those in flight are as few as the cap. The oldest is found by one
    step through the index for each priority that a team uses, however many jobs wait. What is counted is put in the
    index's order, so that the planner does not look for a few such jobs among all that were ever over.
    """
    return (await connection.execute(_COUNT_JOBS, {"account": account, "now": now, "limit": limit})).one()


_WAITING: Final = "upstream_account = :account AND dispatch_at IS NOT NULL AND ambiguous_since IS NULL"

_COUNT_JOBS: Final = text(
    f"""
    WITH RECURSIVE head AS (
        SELECT teams.id AS team_id, first.priority, first.created_at
        FROM teams CROSS JOIN LATERAL (
            SELECT priority, created_at FROM jobs WHERE {_WAITING} AND team_id = teams.id
            ORDER BY priority DESC, created_at, id LIMIT 1
        ) AS first
        UNION ALL
        SELECT head.team_id, next.priority, next.created_at
        FROM head CROSS JOIN LATERAL (
            SELECT priority, created_at FROM jobs
            WHERE {_WAITING} AND team_id = head.team_id AND priority < head.priority
            ORDER BY priority DESC, created_at, id LIMIT 1
        ) AS next
    ), flying AS (
        SELECT count(*) AS in_flight, count(*) FILTER (WHERE upstream_id IS NULL) AS ambiguous
        FROM jobs WHERE upstream_account = :account AND {IN_FLIGHT}
    )
    SELECT in_flight, ambiguous,
        (SELECT min(created_at) FROM head) AS oldest_waiting_at,
        (SELECT count(*) FROM (
            SELECT 1 FROM jobs WHERE {_WAITING} ORDER BY team_id, priority DESC, created_at, id LIMIT :limit
        ) AS few) AS waiting,
        (SELECT count(*) FROM (
            SELECT 1 FROM jobs WHERE {OVERDUE} ORDER BY team_id, created_at, id LIMIT :limit
        ) AS few) AS overdue
    FROM flying
    """  # noqa: S608 - the only parts put in are constants of ours
)


async def count_deliveries(connection: AsyncConnection, *, now: datetime, limit: int) -> AnyRow:
    """How many deliveries are pending and undelivered, since when the oldest is due, how many subscriptions are disabled.

    All are counted up to `limit`. The oldest is found by one step through the index for each lane of each target, however
    many deliveries wait there; a delivery that is being made is not due before its lease ends.
    """
    return (await connection.execute(_COUNT_DELIVERIES, {"now": now, "limit": limit})).one()


_COUNT_DELIVERIES: Final = text(
    """
    WITH RECURSIVE head AS (
        (
            SELECT retrying, target, due_at FROM deliveries WHERE due_at IS NOT NULL
            ORDER BY retrying, target, due_at LIMIT 1
        )
        UNION ALL
        SELECT next.retrying, next.target, next.due_at
        FROM head CROSS JOIN LATERAL (
            SELECT retrying, target, due_at FROM deliveries
            WHERE due_at IS NOT NULL AND (retrying, target) > (head.retrying, head.target)
            ORDER BY retrying, target, due_at LIMIT 1
        ) AS next
    )
    SELECT
        (SELECT min(due_at) FROM (SELECT due_at FROM head LIMIT :limit) AS few WHERE due_at <= :now) AS oldest_due_at,
        (SELECT count(*) FROM (
            SELECT 1 FROM deliveries WHERE due_at IS NOT NULL ORDER BY retrying, target, due_at LIMIT :limit
        ) AS few) AS pending,
        (SELECT count(*) FROM (
            SELECT 1 FROM deliveries WHERE status = 'undelivered' ORDER BY team_id, id LIMIT :limit
        ) AS few) AS undelivered,
        (SELECT count(*) FROM (
            SELECT 1 FROM subscriptions WHERE disabled_at IS NOT NULL AND deleted_at IS NULL LIMIT :limit
        ) AS few) AS disabled_subscriptions
    """
)


async def count_files(
    connection: AsyncConnection, *, late_before: datetime, purged_before: datetime, limit: int
) -> AnyRow:
    """How many files are to be fetched, since when the oldest is, how many of them are late, how many could not be kept.

    Late are those whose jobs ended before the one time and not before the other. All are counted up to `limit`.
    """
    parameters = {"late_before": late_before, "purged_before": purged_before, "limit": limit}
    return (await connection.execute(_COUNT_FILES, parameters)).one()


_COUNT_FILES: Final = text(
    """
    SELECT
        (SELECT completed_at FROM files WHERE due_at IS NOT NULL ORDER BY completed_at LIMIT 1) AS oldest_pending_at,
        (SELECT count(*) FROM (
            SELECT 1 FROM files WHERE due_at IS NOT NULL ORDER BY completed_at LIMIT :limit
        ) AS few) AS pending,
        (SELECT count(*) FROM (
            SELECT 1 FROM files
            WHERE due_at IS NOT NULL AND completed_at < :late_before AND completed_at >= :purged_before
            ORDER BY completed_at LIMIT :limit
        ) AS few) AS late,
        (SELECT count(*) FROM (
            SELECT 1 FROM files WHERE status = 'failed' ORDER BY id LIMIT :limit
        ) AS few) AS failed
    """
)
