"""SQL of one job in full: what holds it back, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.models.jobs import IN_FLIGHT

MOST_RETRIES: Final = 20


async def get_details(connection: AsyncConnection, job_id: UUID) -> AnyRow:
    """What no job object tells of a job that exists: how it is sent, whose it is, and who else holds slots."""
    return (await connection.execute(_GET_DETAILS, {"id": job_id})).one()


_GET_DETAILS: Final = text(
    f"""
    SELECT j.id, j.team_id, j.key_id, j.operation, j.status, j.progress, j.priority, j.parent_id, j.created_at,
        j.accepted_at, j.completed_at, j.error, j.error_code, j.concluded_by, j.ended_by, j.upstream_id,
        j.upstream_account, j.upstream_request_id, j.ambiguous_since, j.dispatch_at, j.dispatch_count,
        j.lease_token IS NOT NULL AS is_leased, j.refusable, j.refusal IS NOT NULL AS is_refused, j.poll_at,
        j.overdue_at, CAST(j.callback AS text) AS callback, t.paused_at AS team_paused_at, t.name AS team,
        t.in_flight_limit, k.name AS key_name, k.prefix AS key_prefix, d.p50_seconds, d.p95_seconds, d.p99_seconds,
        flying.in_flight, flying.of_team AS team_in_flight
    FROM jobs j JOIN teams t ON t.id = j.team_id JOIN api_keys k ON k.id = j.key_id
    LEFT JOIN model_durations d ON d.operation = j.operation AND d.model = j.model
    LEFT JOIN LATERAL (
        SELECT count(*) AS in_flight, count(*) FILTER (WHERE team_id = j.team_id) AS of_team
        FROM jobs WHERE upstream_account = j.upstream_account AND {IN_FLIGHT}
    ) AS flying ON j.dispatch_at IS NOT NULL
    WHERE j.id = :id
    """  # noqa: S608 - the only part put in is a constant of ours
)
"""Slots are counted for a job that waits for one: those are as few as the cap."""


async def list_retries(connection: AsyncConnection, job_id: UUID) -> Sequence[AnyRow]:
    """The last jobs that try this one again (id, status, created_at), oldest first."""
    rows = await connection.execute(_LIST_RETRIES, {"id": job_id, "limit": MOST_RETRIES})
    return list(reversed(rows.all()))


_LIST_RETRIES: Final = text(
    "SELECT id, status, created_at FROM jobs WHERE retry_of = :id ORDER BY created_at DESC, id DESC LIMIT :limit"
)
