"""SQL of the door: lock jobs, write what was decided of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.jobs.queries.reading import ANNOUNCED_COLUMNS
from app.jobs.states import JobState


@dataclass(frozen=True, slots=True)
class ObservedRow:
    """What the door writes of one job."""

    id: UUID
    state: JobState
    poll_at: datetime | None
    overdue_at: datetime | None  # used only where the upstream is learned to have the job by this
    progress_event_at: datetime | None
    request_id: str | None
    ended_by: str | None  # by whose mouth this ends it; None where it does not


async def lock_jobs(tx: AsyncConnection, job_ids: Sequence[UUID]) -> Sequence[AnyRow]:
    """Lock jobs by id, in that order."""
    return (await tx.execute(_LOCK, {"ids": job_ids})).all()


_LOCK: Final = text(
    """
    SELECT id, team_id, jobs.operation, created_at, status, progress, error, error_code, credit_cost, completed_at,
        concluded_by, upstream_id, accepted_at, ambiguous_since, poll_hinted_at IS NOT NULL AS hinted, poll_count, poll_at,
        lease_token, ambiguous_by, dispatch_count, refusable, refusal, missing_count, missing_since,
        progress_event_at,
        p50_seconds, p95_seconds, p99_seconds
    FROM jobs LEFT JOIN model_durations d ON d.operation = jobs.operation AND d.model = jobs.model
    WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE OF jobs
    """
)


async def update_observed(tx: AsyncConnection, rows: Sequence[ObservedRow], *, now: datetime) -> dict[UUID, AnyRow]:
    """Write what the door decided, and return the jobs as they are then, by id, with the columns of the job object.

    A job that the upstream has, or that is over, leaves dispatch.
    """
    if not rows:
        return {}
    states = [row.state for row in rows]
    written = await tx.execute(
        _UPDATE_OBSERVED,
        {
            "now": now,
            "ids": [row.id for row in rows],
            "poll_ats": [row.poll_at for row in rows],
            "overdue_ats": [row.overdue_at for row in rows],
            "progress_event_ats": [row.progress_event_at for row in rows],
            "request_ids": [row.request_id for row in rows],
            "ended_bys": [row.ended_by for row in rows],
            "settled": [state.settled for state in states],
            "statuses": [state.status for state in states],
            "progresses": [state.progress for state in states],
            "results": [state.result for state in states],
            "errors": [state.error for state in states],
            "error_codes": [state.error_code for state in states],
            "credit_costs": [state.credit_cost for state in states],
            "completed_ats": [state.completed_at for state in states],
            "concluded_bys": [state.concluded_by for state in states],
            "upstream_ids": [state.upstream_id for state in states],
        },
    )
    return {row.id: row for row in written}


_UPDATE_OBSERVED: Final = text(
    f"""
    WITH written AS (
        UPDATE jobs SET
            status = seen.status, progress = seen.progress, result = coalesce(CAST(seen.result AS jsonb), jobs.result),
            error = seen.error, error_code = seen.error_code, credit_cost = seen.credit_cost,
            completed_at = seen.completed_at, concluded_by = seen.concluded_by, upstream_id = seen.upstream_id,
            ended_by = coalesce(seen.ended_by, jobs.ended_by),
            upstream_request_id = coalesce(seen.request_id, jobs.upstream_request_id),
            dispatch_at = CASE WHEN seen.settled THEN NULL ELSE jobs.dispatch_at END,
            lease_token = CASE WHEN seen.settled THEN NULL ELSE jobs.lease_token END,
            poll_at = seen.poll_at, updated_at = :now,
            accepted_at = CASE WHEN seen.upstream_id IS NOT NULL THEN coalesce(jobs.accepted_at, :now) END,
            overdue_at = CASE WHEN seen.completed_at IS NULL THEN coalesce(jobs.overdue_at, seen.overdue_at) END,
            progress_event_at = seen.progress_event_at, missing_count = 0, missing_since = NULL
        FROM unnest(
            CAST(:ids AS uuid[]), CAST(:statuses AS text[]), CAST(:progresses AS smallint[]), CAST(:results AS text[]),
            CAST(:errors AS text[]), CAST(:error_codes AS text[]), CAST(:credit_costs AS integer[]),
            CAST(:completed_ats AS timestamptz[]), CAST(:concluded_bys AS text[]), CAST(:upstream_ids AS text[]),
            CAST(:request_ids AS text[]), CAST(:settled AS boolean[]), CAST(:poll_ats AS timestamptz[]),
            CAST(:overdue_ats AS timestamptz[]), CAST(:progress_event_ats AS timestamptz[]), CAST(:ended_bys AS text[])
        ) AS seen (id, status, progress, result, error, error_code, credit_cost, completed_at, concluded_by, upstream_id,
            request_id, settled, poll_at, overdue_at, progress_event_at, ended_by)
        WHERE jobs.id = seen.id
        RETURNING jobs.*
    )
    SELECT {ANNOUNCED_COLUMNS} FROM written
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def find_by_upstream_ids(tx: AsyncConnection, upstream_ids: Sequence[str]) -> dict[str, UUID]:
    """Which jobs these upstream ids are already bound to."""
    rows = await tx.execute(
        text("SELECT upstream_id, id FROM jobs WHERE upstream_id = ANY(CAST(:ids AS text[]))"), {"ids": upstream_ids}
    )
    return {row.upstream_id: row.id for row in rows}
