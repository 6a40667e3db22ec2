"""Tell subscribers what became of jobs: by events, published in the transaction that changes the jobs, as its last act."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import timestamp
from app.context import SANDBOX, Context
from app.db import AnyRow
from app.deliveries.filters import Facts
from app.deliveries.publish import Callback, News, make_deliveries, publish
from app.events.queries import append
from app.jobs.observe import Observed
from app.jobs.outputs import shape_unkept
from app.jobs.queries.archiving import list_announced, mark_told
from app.jobs.reading import View, shape_job, view
from app.jobs.states import JobState
from app.teams.ledger import Crossing, month_of, settle
from app.teams.queries.ledger import Ended


async def settle_and_announce(ctx: Context, tx: AsyncConnection, observed: Collection[Observed]) -> None:
    """Settle what ended, and publish what observations made true. The last statements of the transaction that observed.

    From settling to the commit nobody else can settle a job of the same team, so little is done in between.
    """
    seen = View(ctx.now())
    told = [(fact, one.job, one.after) for one in observed for fact in one.facts if one.job is not None]
    events = await make_deliveries(ctx, tx, [_news(fact, job, _shape(job, state, seen)) for fact, job, state in told])
    ended = {one.seen.job_id: one.job for one in observed if one.ended and one.job is not None}
    crossings = await settle(tx, [_bill(job) for job in ended.values()], ctx.now())
    await append(tx, events + await make_deliveries(ctx, tx, _thresholds(crossings)))


def _bill(job: AnyRow) -> Ended:
    """What the ledger is to know of a job that is over."""
    return Ended(
        job_id=job.id,
        team_id=job.team_id,
        operation=job.operation,
        model=job.model,
        month=month_of(job.created_at),
        credits=(job.credit_cost or 0) if job.status == "COMPLETED" else None,
    )


async def announce_accepted(
    ctx: Context, tx: AsyncConnection, jobs: Sequence[AnyRow], crossings: Iterable[Crossing]
) -> None:
    """Publish that jobs were accepted, and what that did to budgets. The last statements of that transaction."""
    seen = View(ctx.now())
    news = [_news("job.queued", job, shape_job(job, seen)) for job in jobs]
    await publish(ctx, tx, news + _thresholds(crossings))


def _thresholds(crossings: Iterable[Crossing]) -> list[News]:
    return [
        News(facts=Facts(type="budget.threshold", team_id=crossing.team_id), data=crossing.shape())
        for crossing in crossings
    ]


async def announce_archived(ctx: Context, tx: AsyncConnection, job_ids: Collection[UUID]) -> None:
    """Publish that of these jobs nothing is left to be fetched: what was kept, and what could not be. Last statements.

    Each is told where a file is in question of which it was not told before.
    """
    fresh = await mark_told(tx, job_ids) if job_ids else set()
    if not fresh:
        return
    seen, news = await view(ctx), []
    for job in await list_announced(tx, {job_id for job_id, _ in fresh}):
        files = msgspec.json.decode(job.files)
        failed = shape_unkept([file for file in files if file["status"] == "failed"])
        if (job.id, "stored") in fresh:
            news.append(_news("job.archived", job, shape_job(job, seen)))
        if (job.id, "failed") in fresh:
            news.append(_news("job.archive_failed", job, shape_job(job, seen) | {"failedFiles": failed}))
    await publish(ctx, tx, news)


async def announce_late(ctx: Context, tx: AsyncConnection, job_ids: Collection[UUID]) -> None:
    """Publish that these jobs have files that are not kept yet though their purge is near. Last statements."""
    seen = await view(ctx)
    jobs = await list_announced(tx, job_ids)
    late = {job.id: shape_unkept(msgspec.json.decode(job.files)) for job in jobs}
    news = [_news("job.archive_late", job, shape_job(job, seen) | {"lateFiles": late[job.id]}) for job in jobs]
    await publish(ctx, tx, news)


def _shape(job: AnyRow, state: JobState, seen: View) -> dict[str, Any]:
    """The job object as it was at that moment, of which others may have followed in the same transaction."""
    return shape_job(job, seen) | {
        "status": state.status,
        "progress": state.progress,
        "result": None if state.result is None else msgspec.Raw(state.result.encode()),
        "error": state.error,
        "errorCode": state.error_code,
        "creditCost": state.credit_cost,
        "completedAt": timestamp(state.completed_at) if state.completed_at else None,
    }


def _news(kind: str, job: AnyRow, shown: dict[str, Any]) -> News:
    metadata = msgspec.json.decode(job.metadata) if job.metadata else None
    facts = Facts(
        type=kind,
        team_id=job.team_id,
        operation=job.operation,
        model=job.model,
        metadata=metadata,
        test=job.upstream_account == SANDBOX,
    )
    return News(facts=facts, job_id=job.id, data=shown, callback=_callback(job))


def _callback(job: AnyRow) -> Callback | None:
    """Where the job's caller wants to be told; not of a job that it was refused."""
    if job.callback is None or job.is_refused:
        return None
    return Callback(url=job.callback["url"], events=job.callback["events"], key_id=job.key_id)
