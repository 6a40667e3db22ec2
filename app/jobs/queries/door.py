"""SQL of the door: lock jobs, write what was decided of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec.structs import asdict
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow, recordset
from app.jobs.queries.reading import ANNOUNCED_COLUMNS
from app.jobs.queries.steps import INSERT_STEPS, Step
from app.jobs.states import JobState
from app.statements import Statement


class ObservedRow(msgspec.Struct, frozen=True):
    """What the door writes of one job."""

    id: UUID
    state: JobState
    poll_at: datetime | None
    overdue_at: datetime | None  # used only where the upstream is learned to have the job by this
    progress_event_at: datetime | None
    request_id: str | None
    ended_by: str | None  # by whose mouth this ends it; None where it does not


async def lock_jobs(tx: AsyncConnection, job_ids: Sequence[UUID]) -> Sequence[AnyRow]:
    """Lock jobs by id, in that order. The columns are in the order in which `observe` takes them."""
    return await _LOCK.fetch(tx, {"ids": job_ids})


_LOCK: Final = Statement(
    """
    SELECT id, jobs.operation, p50_seconds, p95_seconds, p99_seconds,
        status, progress, error, error_code, credit_cost, completed_at, concluded_by, upstream_id,
        team_id, created_at, accepted_at, ambiguous_since, poll_hinted_at IS NOT NULL AS hinted, poll_count, poll_at,
        lease_token, ambiguous_by, dispatch_count, refusable, refusal, missing_count, missing_since, progress_event_at
    FROM jobs LEFT JOIN model_durations d ON d.operation = jobs.operation AND d.model = jobs.model
    WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE OF jobs
    """
)


async def update_observed(
    tx: AsyncConnection, rows: Sequence[ObservedRow], steps: Sequence[Step], *, now: datetime
) -> dict[UUID, AnyRow]:
    """Write what the door decided, with the steps of these jobs' traces, and return the jobs as they are then, by id, with
    the columns of the job object.

    A job that the upstream has, or that is over, leaves dispatch.
    """
    if not rows:
        return {}
    parameters = {
        "now": now,
        "ids": [row.id for row in rows],
        "rows": recordset([_flat(row) for row in rows]),
        "steps": recordset(steps),
    }
    written = await _UPDATE_OBSERVED.fetch(tx, parameters)
    return {row.id: row for row in written}


def _flat(row: ObservedRow) -> dict[str, Any]:
    return {**asdict(row), **asdict(row.state), "settled": row.state.settled, "state": None}


_UPDATE_OBSERVED: Final = Statement(
    f"""
    WITH traced AS ({INSERT_STEPS}), written AS (
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
        FROM json_to_recordset(CAST(:rows AS json)) AS seen (id uuid, status text, progress smallint, result text,
            error text, error_code text, credit_cost integer, completed_at timestamptz, concluded_by text,
            upstream_id text, request_id text, settled boolean, poll_at timestamptz, overdue_at timestamptz,
            progress_event_at timestamptz, ended_by text)
        -- The planner knows nothing of how many rows a recordset has, and would read a table that is small in whole.
        WHERE jobs.id = ANY(CAST(:ids AS uuid[])) AND jobs.id = seen.id
        RETURNING jobs.*
    )
    SELECT {ANNOUNCED_COLUMNS} FROM written
    """  # noqa: S608 - the parts put in are constants of ours
)


async def find_by_upstream_ids(tx: AsyncConnection, upstream_ids: Sequence[str]) -> dict[str, UUID]:
    """Which jobs these upstream ids are already bound to."""
    rows = await tx.execute(
        text("SELECT upstream_id, id FROM jobs WHERE upstream_id = ANY(CAST(:ids AS text[]))"), {"ids": upstream_ids}
    )
    return {row.upstream_id: row.id for row in rows}
