"""Tell everything that happened to one job, in order, who said so, and who was told. It was written down as it happened."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import timestamp, timestamp_or_null
from app.db import AnyRow
from app.errors import NotFound
from app.jobs.reading import View, shape_job
from app.ops import queries

MOST_STEPS: Final = 1000
"""Of a job with more of them the newest are shown."""

CLOCKS_DIFFER: Final = timedelta(days=1)
"""How much earlier than its submission a job's steps are looked for: far more than the clocks of processes may differ."""

_HEAD: Final = ("at", "afterSeconds", "what", "by", "byName")
_DETAILS: Final = (
    *("action", "attempt", "verdict", "httpStatus", "event", "signature", "outcome", "from", "to", "progress", "said"),
    *("status", "reason", "error", "seconds", "nextAttemptAt"),
    *("fileId", "contentType", "bytes"),
    *("startedAt", "errorCode", "concludedBy", "upstreamId", "missingCount"),
)
"""In which order details are told: what matters most comes first, and what is not named here last."""


async def trace_job(connection: AsyncConnection, given: str, *, only_team: UUID | None, seen: View) -> dict[str, Any]:
    """A job by its id, ours or the upstream's, with its steps, oldest first. `only_team`: None means any.

    Raises NotFound, for other teams' jobs too.
    """
    job = await _find_job(connection, given, only_team)
    since = job.created_at - CLOCKS_DIFFER
    rows = await queries.list_happenings(connection, job.id, told_team=only_team, since=since, limit=MOST_STEPS + 1)
    names = await queries.list_key_names(connection, {job.key_id, *filter(None, (_key_id(row) for row in rows))})
    steps = [_shape_step(job, row, names) for row in reversed(rows[:MOST_STEPS])]
    return {
        "job": _shape_traced_job(job, seen),
        "steps": [_shape_submission(job, names), *steps],
        "hasMore": len(rows) > MOST_STEPS,
    }


def describe(step: Mapping[str, Any]) -> str:
    """The details of a step in one line; those that say nothing are left out."""
    return ", ".join(f"{name} {value}" for name, value in step.items() if name not in _HEAD and value is not None)


async def _find_job(connection: AsyncConnection, given: str, only_team: UUID | None) -> AnyRow:
    try:
        job_id = UUID(given)
    except ValueError:
        job_id = None
    job = None
    if given.isprintable():  # anything else is nobody's id, and some of it PostgreSQL would not even take as a text
        upstream_id = str(job_id or given)
        job = await queries.find_traced_job(connection, only_team, job_id=job_id, upstream_id=upstream_id)
    if job is None:
        raise NotFound("Job not found")
    return job


def _shape_traced_job(job: AnyRow, seen: View) -> dict[str, Any]:
    return shape_job(job, seen) | {
        "team": job.team,
        "upstreamId": job.upstream_id,
        "idempotencyKey": job.idempotency_key,
        "acceptedAt": timestamp_or_null(job.accepted_at),
        "dispatchCount": job.dispatch_count,
        "nextDispatchAt": timestamp_or_null(job.dispatch_at),
        "pollCount": job.poll_count,
        "nextPollAt": timestamp_or_null(job.poll_at),
        "overdue": job.completed_at is None and job.overdue_at is not None and job.overdue_at <= seen.now,
    }


def _shape_submission(job: AnyRow, names: Mapping[UUID, str]) -> dict[str, Any]:
    asked = {"operation": job.operation, "model": job.model, "priority": job.priority}
    return _head(job, job.created_at, "submitted", str(job.key_id), names.get(job.key_id)) | asked


def _shape_step(job: AnyRow, row: AnyRow, names: Mapping[UUID, str]) -> dict[str, Any]:
    details: dict[str, Any] = msgspec.json.decode(row.data)
    key_id = _key_id(row)
    order = [*(name for name in _DETAILS if name in details), *(name for name in details if name not in _DETAILS)]
    head = _head(job, row.at, row.what, row.by, names.get(key_id) if key_id else None)
    return head | {name: details[name] for name in order}


def _head(job: AnyRow, at: datetime, what: str, by: str, name: str | None) -> dict[str, Any]:
    """What all steps have; a key without a name is known by its id alone."""
    after = round((at - job.created_at).total_seconds(), 3)
    return dict(zip(_HEAD, (timestamp(at), after, what, by, name or None), strict=True))


def _key_id(row: AnyRow) -> UUID | None:
    """The key behind an action, where it was not the command line."""
    try:
        return UUID(row.by) if row.what == "action" else None
    except ValueError:
        return None
