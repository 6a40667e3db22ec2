"""Tell subscribers what became of jobs: by events, appended in the transaction that changes the jobs, as its last act."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from app.clock import timestamp
from app.context import Context
from app.db import AnyRow
from app.events.queries import NewEvent, append
from app.jobs.observe import Observed
from app.jobs.reading import shape_job
from app.jobs.states import JobState


async def announce(ctx: Context, tx: AsyncConnection, observed: Iterable[Observed]) -> None:
    """Append the events of observations. The last statement of the transaction that observed them."""
    now = ctx.now()
    await append(
        tx,
        [
            _event(fact, one.job, _shape(one.job, one.after, now), now)
            for one in observed
            for fact in one.facts
            if one.job
        ],
    )


async def announce_accepted(ctx: Context, tx: AsyncConnection, jobs: Sequence[AnyRow]) -> None:
    """Append the events of jobs that were just accepted. The last statement of that transaction."""
    now = ctx.now()
    await append(tx, [_event("job.queued", job, shape_job(job, now), now) for job in jobs])


def _shape(job: AnyRow, state: JobState, now: datetime) -> dict[str, Any]:
    """The job object as it was at that moment, of which others may have followed in the same transaction."""
    return shape_job(job, now) | {
        "status": state.status,
        "progress": state.progress,
        "result": None if state.result is None else msgspec.Raw(state.result.encode()),
        "error": state.error,
        "errorCode": state.error_code,
        "creditCost": state.credit_cost,
        "completedAt": timestamp(state.completed_at) if state.completed_at else None,
    }


def _event(type_: str, job: AnyRow, shown: dict[str, Any], now: datetime) -> NewEvent:
    data = msgspec.json.encode(shown).decode()
    return NewEvent(id=uuid7(), at=now, type=type_, team_id=job.team_id, job_id=job.id, data=data)
