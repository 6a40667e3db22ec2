"""Accept a submission. From the commit of `accept` on the promise holds, whatever becomes of this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
import structlog
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth import Caller
from app.clock import new_id
from app.context import Context
from app.db import sqlstate
from app.deliveries.publish import TOPICS
from app.errors import ApiError, Conflict, Invalid, OverBudget, Refused
from app.jobs import admission, dispatch
from app.jobs.announce import announce_accepted
from app.jobs.bodies import TOO_DEEP, Body, check_idempotency_key, read_body
from app.jobs.checking import find_faults
from app.jobs.materials import find_foreign
from app.jobs.parents import Parent, find_parent
from app.jobs.queries import acceptance
from app.jobs.queries.acceptance import NewJob
from app.jobs.queries.admission import delete_idempotency_keys, find_limits
from app.models.jobs import Status
from app.teams.ledger import Wanted, reserve

log = structlog.get_logger()

UNKEEPABLE: Final = ("22", "54")
"""SQLSTATE classes of values that PostgreSQL cannot take: data exception, program limit exceeded."""


class Accepted(msgspec.Struct, frozen=True):
    """The job that a submission stands for, and whether it was made by it. `same`: it asked for what the job is.

    With a `refusal` nothing was kept.
    """

    job_id: UUID
    new: bool
    same: bool = True
    refusal: ApiError | None = None


class Promised(msgspec.Struct, frozen=True):
    """A job's status, and what it was refused with, if it was refused before anybody was promised anything."""

    status: Status
    refusal: Mapping[str, Any] | None


async def submit(
    ctx: Context,
    caller: Caller,
    operation: str,
    raw: bytes,
    *,
    idempotency_key: str | None = None,
    respond_async: bool = False,
) -> tuple[UUID, Status]:
    """Check one submission and place it, unless `respond_async` while its caller waits.

    Raises Invalid with every fault that was found, NotFound or Conflict for a parent that does not fit, or as `place`.
    """
    check_idempotency_key(idempotency_key)
    body = read_body(operation, raw, ctx.targets)
    try:
        job = await make_job(ctx, caller, body, idempotency_key, refusable=not respond_async)
    except ApiError:
        earlier = await _find_accepted(ctx, caller, body, idempotency_key)
        if earlier is None:
            raise
        return earlier
    return await place(ctx, job)


async def make_job(ctx: Context, caller: Caller, body: Body, idempotency_key: str | None, *, refusable: bool) -> NewJob:
    """Judge a body and make a job of it; raises Invalid, NotFound or Conflict as `submit` says."""
    try:
        # A sandbox has no document of its own: what is tried out is judged as what is meant.
        faults = await find_faults(ctx.within or ctx, body.operation, body.theirs) | body.faults
    except RecursionError:
        raise Invalid(TOO_DEEP) from None
    if faults:
        raise Invalid(details=faults)
    if faults := await find_foreign(ctx, caller, body.theirs):
        raise Invalid(details=faults)
    parent = await find_parent(ctx, caller, body.operation, body.theirs)
    return _new_job(ctx, caller, body, parent, idempotency_key, refusable=refusable)


def _new_job(
    ctx: Context, caller: Caller, body: Body, parent: Parent | None, idempotency_key: str | None, *, refusable: bool
) -> NewJob:
    wire = body.wire if parent is None else parent.translated(body.wire)
    return NewJob(
        id=new_id(),
        team_id=caller.team_id,
        key_id=caller.key_id,
        operation=body.operation,
        model=parent.model if parent else body.theirs.get("model", ""),
        body=msgspec.json.encode(wire).decode(),
        metadata=body.metadata,
        priority=body.priority,
        callback=body.callback,
        idempotency_key=idempotency_key,
        request_hash=body.request_hash,
        upstream_account=ctx.account,
        created_at=ctx.now(),
        refusable=refusable,
        parent_id=parent.id if parent else None,
    )


async def _find_accepted(
    ctx: Context, caller: Caller, body: Body, idempotency_key: str | None
) -> tuple[UUID, Status] | None:
    """The job that the same request made before, under the same Idempotency-Key.

    It is not judged anew: the upstream's document, or the parent, may have changed since, and whoever was promised a job
    must not hear that it was refused.
    """
    if idempotency_key is None:
        return None
    pair = (caller.team_id, idempotency_key)
    async with ctx.db.reading() as connection:
        holder = (await acceptance.find_idempotency_keys(connection, [pair])).get(pair)
    if holder is None or bytes(holder.request_hash) != body.request_hash:
        return None
    promised = await ctx.batched(promise, holder.job_id)
    return None if promised.refusal is not None else (holder.job_id, promised.status)


async def place(ctx: Context, job: NewJob) -> tuple[UUID, Status]:
    """Accept a job and, while it can be refused, try to send it.

    Returns the id and status of the job that its Idempotency-Key stands for. Raises Invalid for what cannot be kept,
    Conflict where the key stands for another request, Forbidden, TooMany or OverBudget where the team's limits forbid it, or
    Refused: what the upstream refused before anybody was promised anything, in its own words.
    """
    while True:
        accepted = await _accept(ctx, job)
        if accepted.refusal is not None:
            raise accepted.refusal
        if not accepted.same:
            raise Conflict("This Idempotency-Key was used with a different request")
        if accepted.new:
            return job.id, await _send(ctx, job)
        promised = await ctx.batched(promise, accepted.job_id)
        if promised.refusal is None:
            return accepted.job_id, promised.status


async def _accept(ctx: Context, job: NewJob) -> Accepted:
    try:
        return await ctx.batched(accept, job, plans_once=True)
    except asyncpg.PostgresError as error:
        if sqlstate(error).startswith(UNKEEPABLE):
            raise Invalid("The body holds a value that cannot be kept, such as a number out of all range") from error
        raise


async def _send(ctx: Context, job: NewJob) -> Status:
    log.info("job.submitted", job=str(job.id), team=str(job.team_id), operation=job.operation, model=job.model)
    ctx.notify.nudge(TOPICS)
    if not job.refusable:
        ctx.notify.nudge(["dispatch"])
        return "QUEUED"
    status = await dispatch.send_inline(ctx, job.id)
    if status is not None:
        return status
    promised = await ctx.batched(promise, job.id)
    if promised.refusal is not None:
        raise Refused(promised.refusal["status"], promised.refusal["body"])
    ctx.notify.nudge(["dispatch"])
    return promised.status


async def accept(ctx: Context, tx: AsyncConnection, jobs: Sequence[NewJob]) -> list[Accepted]:
    """Insert jobs whose Idempotency-Key is new or absent, unless their teams may not; find what the other keys stand for.

    Answers the same when run again after an unknown commit: a job is new if it is the one under its key.
    """
    holders = await _hold_keys(tx, [job for job in jobs if job.idempotency_key is not None])
    answers = []
    for job in jobs:
        holder = holders.get(_pair(job))
        if holder is None:
            answers.append(Accepted(job.id, new=True))
        else:
            same = bytes(holder.request_hash) == job.request_hash
            answers.append(Accepted(holder.job_id, new=holder.job_id == job.id, same=same))
    new = [job for job, answer in zip(jobs, answers, strict=True) if answer.new]
    limits = await find_limits(tx, {job.team_id for job in new})
    refusals = await admission.refuse(tx, new, limits)
    budgeted = [job for job in new if job.team_id in limits and job.id not in refusals]
    short, crossings = await reserve(tx, ctx.account, [_wanted(job) for job in budgeted], ctx.now())
    if short:
        await delete_idempotency_keys(tx, [job for job in new if job.id in short])
        refusals |= {job_id: OverBudget(shortage.required, shortage.available) for job_id, shortage in short.items()}
    new = [job for job in new if job.id not in refusals]
    inserted = await acceptance.insert_jobs(tx, new, inline=timedelta(seconds=ctx.settings.inline_seconds))
    await admission.note_retries(tx, new, inserted)
    await announce_accepted(ctx, tx, inserted, crossings)
    return [replace(answer, refusal=refusals.get(answer.job_id)) for answer in answers]


def _wanted(job: NewJob) -> Wanted:
    return Wanted(job_id=job.id, team_id=job.team_id, operation=job.operation, model=job.model)


async def _hold_keys(tx: AsyncConnection, jobs: Sequence[NewJob]) -> dict[tuple[UUID, str], Any]:
    """Claim keys until each has a holder: one that was released while we waited for it is claimed anew."""
    holders: dict[tuple[UUID, str], Any] = {}
    open_jobs = list(jobs)
    while open_jobs:
        holders |= await acceptance.insert_idempotency_keys(tx, open_jobs)
        if taken := {pair for job in open_jobs if (pair := _pair(job)) not in holders}:
            holders |= await acceptance.find_idempotency_keys(tx, taken)
        open_jobs = [job for job in open_jobs if _pair(job) not in holders]
    return holders


def _pair(job: NewJob) -> tuple[UUID, str]:
    return job.team_id, job.idempotency_key or ""


async def promise(ctx: Context, tx: AsyncConnection, job_ids: Sequence[UUID]) -> list[Promised]:
    """Make sure that whoever is told of these jobs is told the truth: refused, or not to be refused any more.

    Answers the same when run again after an unknown commit.
    """
    rows = await acceptance.promise(tx, job_ids, ctx.now())
    return [Promised(rows[job_id].status, rows[job_id].refusal) for job_id in job_ids]
