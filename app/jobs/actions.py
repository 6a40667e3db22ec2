"""What callers and operators may do to a job: cancel it before it is sent, try it again, have it asked after now.

Each action is a step of the job's trace. None of them touches a job that the upstream may have in a way that could have it
paid twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.apiframe.spelling import POLL_ONLY
from app.apiframe.wire import Observation
from app.auth import Caller
from app.clock import new_id
from app.context import SANDBOX, Context
from app.errors import Conflict, NotFound, Unavailable
from app.jobs import reading, reconcile
from app.jobs.announce import settle_and_announce
from app.jobs.observe import lock_jobs, observe, topics
from app.jobs.queries import acceptance
from app.jobs.queries.acceptance import NewJob
from app.jobs.queries.steps import Step, insert_steps
from app.jobs.submit import place
from app.models.jobs import Status
from app.teams.audit import note_foreign

log = structlog.get_logger()

WORTH_TRYING_AGAIN: Final = ("FAILED", "CANCELLED")


async def cancel(ctx: Context, caller: Caller, job_id: UUID) -> dict[str, Any]:
    """End a job that was never sent, and return it. Raises NotFound, or Conflict once it was sent or is over.

    The job's row is locked meanwhile: a dispatch that comes at the same time finds it over, or this finds it sent.
    """
    async with ctx.db.transaction() as tx:
        jobs = await lock_jobs(tx, [job_id])
        job = jobs.get(job_id)
        if job is None or caller.only_team not in (None, job.team_id):
            raise NotFound("Job not found")
        if job.state.final:
            raise Conflict(f"The job is over: {job.state.status}")
        if job.sent or job.state.settled:
            raise Conflict("The job was sent already, and Apiframe cannot cancel")
        seen = Observation(job_id=job_id, source="framehook", at=ctx.now(), status="CANCELLED", error_code="cancelled")
        await insert_steps(tx, [_action(ctx, caller, job_id, "cancel")])
        await note_foreign(tx, caller, "job.cancelled", job_id, job.team_id)
        observed = await observe(ctx, tx, jobs, [seen])
        await settle_and_announce(ctx, tx, observed)
    ctx.notify.nudge(topics(observed))
    log.info("job.cancelled", job=str(job_id), key=str(caller.key_id))
    return await reading.show(ctx, caller, job_id)


async def retry(
    ctx: Context, caller: Caller, job_id: UUID, *, idempotency_key: str | None, respond_async: bool
) -> tuple[UUID, Status]:
    """Submit a job that failed or was cancelled once more, as a new job of the same team and key; see `submit.place`.

    Raises NotFound, Conflict where the job is not over or completed, and what a submission raises.
    """
    async with ctx.db.reading() as connection:
        original = await acceptance.find_original(connection, caller.only_team, job_id)
    if original is None:
        raise NotFound("Job not found")
    if original.status not in WORTH_TRYING_AGAIN:
        raise Conflict(f"Only a job that failed or was cancelled can be tried again; this one is {original.status}")
    ctx = ctx.at(original.upstream_account)
    if original.parent_id is not None and original.upstream_account != ctx.account:
        raise Conflict("The parent job was not run by the Apiframe account that is used now")
    job = NewJob(
        id=new_id(),
        team_id=original.team_id,
        key_id=original.key_id,
        operation=original.operation,
        model=original.model,
        body=POLL_ONLY.respelled(bytes(original.wire_body), None).decode(),
        metadata=original.metadata,
        priority=original.priority,
        callback=original.callback,
        idempotency_key=idempotency_key,
        request_hash=hashlib.sha256(b"retry\0" + job_id.bytes).digest(),
        upstream_account=ctx.account,
        created_at=ctx.now(),
        refusable=not respond_async,
        retry_of=job_id,
        retried_by=caller.actor if caller.is_foreign_to(original.team_id) else None,
        parent_id=original.parent_id,
    )
    placed = await place(ctx, job)
    if placed[0] == job.id:
        async with ctx.db.transaction() as tx:
            await insert_steps(tx, [_action(ctx, caller, job_id, "retry", job=str(job.id))])
    return placed


async def refresh(ctx: Context, caller: Caller, job_id: UUID) -> dict[str, Any]:
    """Ask the upstream after a job now, and return it as it is then. One that is over, or not sent yet, is just returned.

    Raises NotFound, or Unavailable where the upstream could not be asked.
    """
    job = await reading.show(ctx, caller, job_id)
    upstream = ctx.at(SANDBOX if job["test"] else ctx.account)
    if job["completedAt"] is None and not await reconcile.ask_now(upstream, job_id):
        raise Unavailable("The upstream could not be asked", retry_after_seconds=round(ctx.settings.sweep_seconds) or 1)
    async with ctx.db.transaction() as tx:
        await insert_steps(tx, [_action(ctx, caller, job_id, "refresh")])
        if caller.sees_all and (row := await acceptance.find_original(tx, None, job_id)) is not None:
            await note_foreign(tx, caller, "job.refreshed", job_id, row.team_id)
    return await reading.show(ctx, caller, job_id)


async def note_steps(ctx: Context, tx: AsyncConnection, caller: Caller, job_ids: Iterable[UUID], action: str) -> None:
    """Have an action in the traces of these jobs."""
    await insert_steps(tx, [_action(ctx, caller, job_id, action) for job_id in job_ids])


def _action(ctx: Context, caller: Caller, job_id: UUID, action: str, **more: str) -> Step:
    return Step(job_id=job_id, at=ctx.now(), kind="action", source=caller.actor, data={"action": action, **more})
