"""Do one thing to many jobs: to those that were chosen, or to all that match a filter, a thousand at a time.

What it will come to can be seen before. Jobs that were submitted after that look are not touched, and a part that is sent
again does nothing twice: a retry goes under a key made of the bulk's id, and the others find that it was done.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal, get_args
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth import Caller
from app.context import Context
from app.db import AnyRow
from app.errors import ApiError
from app.jobs import actions
from app.jobs.filters import JobFilter
from app.jobs.finding import count_jobs, list_ids
from app.jobs.observe import lock_jobs
from app.jobs.queries.bulk import list_fates
from app.jobs.reading import identify_team
from app.jobs.reconcile import ask_soon
from app.paging import Cursor
from app.teams.audit import note, note_foreign

log = structlog.get_logger()

Action = Literal["retry", "cancel", "refresh"]

ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

MOST_AT_ONCE: Final = 1_000
"""How many jobs one part of a bulk is about."""

TOGETHER: Final = 16
"""So many are retried or cancelled at the same time: calls that arrive together share a transaction."""

LOCKED_TOGETHER: Final = 100

ASK_AT_MOST_EVERY: Final = timedelta(seconds=10)
"""How often the same job is asked after, however often somebody says so."""

_PAST: Final[Mapping[Action, str]] = {"retry": "retried", "cancel": "cancelled", "refresh": "refreshed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which jobs: these `ids`, or where there are none, those that `asked` finds that were there before `before`."""

    asked: JobFilter
    ids: tuple[UUID, ...] = ()
    before: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a part of a bulk is about: whom it is done to, and how many are left out, by the reason.

    `cursor` is where the next part begins, None after the last.
    """

    todo: Sequence[UUID]
    skipped: Mapping[str, int]
    cursor: Cursor | None

    @property
    def total(self) -> int:
        """How many jobs the part is about."""
        return len(self.todo) + sum(self.skipped.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a part came to. `left` jobs match that it was not about, and maybe more than that with `more_left`."""

    done: Mapping[UUID, UUID]  # with the job that it made, or else the job itself
    skipped: Mapping[str, int]
    failed: Mapping[str, Sequence[UUID]] = field(default_factory=dict)
    cursor: Cursor | None = None
    left: int = 0
    more_left: bool = False


async def plan(ctx: Context, caller: Caller, action: Action, chosen: Selection) -> Plan:
    """What the next part would be: the newest of these jobs. Raises Forbidden, Invalid as a list of jobs does."""
    async with ctx.db.reading() as connection:
        ids, cursor = await _select(ctx, connection, caller, chosen)
        fates = await list_fates(connection, caller.only_team, ids)
    reasons = {job_id: _hindrance(action, fates.get(job_id)) for job_id in ids}
    return Plan(
        todo=[job_id for job_id, reason in reasons.items() if reason is None],
        skipped=Counter(reason for reason in reasons.values() if reason is not None),
        cursor=cursor,
    )


async def carry_out(ctx: Context, caller: Caller, action: Action, chosen: Selection, bulk_id: UUID) -> Report:
    """Do the next part now, and tell what came of it and how many are left. Raises Forbidden, Invalid."""
    part = await plan(ctx, caller, action, chosen)
    if part.todo:
        await _note(ctx, caller, action, chosen, part, bulk_id)
    failed: dict[str, list[UUID]] = {}
    if action == "refresh":
        done = await _have_asked(ctx, caller, part.todo)
    else:
        done, failed = await _do_each(_doing(ctx, caller, action, bulk_id), part.todo)
    failed_count = sum(map(len, failed.values()))
    log.info("jobs.changed", action=action, bulk=str(bulk_id), done=len(done), failed=failed_count)
    left, more_left = await _count_left(ctx, caller, chosen, part.cursor)
    return Report(done=done, skipped=part.skipped, failed=failed, cursor=part.cursor, left=left, more_left=more_left)


async def _select(
    ctx: Context, connection: AsyncConnection, caller: Caller, chosen: Selection
) -> tuple[Sequence[UUID], Cursor | None]:
    if chosen.ids:
        return list(dict.fromkeys(chosen.ids))[:MOST_AT_ONCE], None
    team_id = await identify_team(connection, caller, chosen.asked.team)
    return await list_ids(
        connection,
        chosen.asked,
        team_id=team_id,
        now=ctx.now(),
        created_before=chosen.before,
        limit=MOST_AT_ONCE,
    )


def _hindrance(action: Action, job: AnyRow | None) -> str | None:
    """Why a job is left out, by the same rules as the actions have; None where it is not."""
    if job is None:
        return "not found"
    if action == "retry":
        if job.status not in actions.WORTH_TRYING_AGAIN:
            return "completed" if job.is_over else "not over yet"
        return "tried again already" if job.is_retried else None
    if job.is_over:
        return "over"
    if action == "cancel":
        return "sent already" if job.is_sent or job.is_known else None
    return None if job.is_known else "not accepted upstream yet"


async def _note(ctx: Context, caller: Caller, action: Action, chosen: Selection, part: Plan, bulk_id: UUID) -> None:
    """Have the bulk itself in the audit log, before anything is done: what it does to each job is noted with that."""
    asked = {"chosen": len(chosen.ids)} if chosen.ids else {"filter": chosen.asked.as_query()}
    async with ctx.db.transaction() as tx:
        await note(tx, caller.actor, f"bulk.{_PAST[action]}", bulk_id, jobs=len(part.todo), **asked)


def _doing(ctx: Context, caller: Caller, action: Action, bulk_id: UUID) -> Callable[[UUID], Awaitable[UUID]]:
    """What is done to each job; it answers with the job that it made, or else the job itself."""

    async def retry(job_id: UUID) -> UUID:
        key = f"bulk {bulk_id} {job_id}"
        return (await actions.retry(ctx, caller, job_id, idempotency_key=key, respond_async=True))[0]

    async def cancel(job_id: UUID) -> UUID:
        await actions.cancel(ctx, caller, job_id)
        return job_id

    return retry if action == "retry" else cancel


async def _do_each(
    do: Callable[[UUID], Awaitable[UUID]], ids: Sequence[UUID]
) -> tuple[dict[UUID, UUID], dict[str, list[UUID]]]:
    """Do it to all of them, a few at a time; one that refuses keeps no other from it."""
    done: dict[UUID, UUID] = {}
    failed: dict[str, list[UUID]] = {}
    ahead = iter(ids)

    async def work() -> None:
        for job_id in ahead:
            try:
                done[job_id] = await do(job_id)
            except ApiError as error:
                failed.setdefault(error.body["error"], []).append(job_id)

    workers = [asyncio.create_task(work()) for _ in range(min(TOGETHER, len(ids)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    return {job_id: done[job_id] for job_id in ids if job_id in done}, failed


async def _have_asked(ctx: Context, caller: Caller, ids: Sequence[UUID]) -> dict[UUID, UUID]:
    """Have these jobs asked after as soon as may be: whoever reconciles takes many from one page of the upstream's list."""
    for start in range(0, len(ids), LOCKED_TOGETHER):
        some = ids[start : start + LOCKED_TOGETHER]
        async with ctx.db.transaction() as tx:
            jobs = await lock_jobs(tx, some)
            known = [job for job in jobs.values() if job.state.upstream_id is not None and not job.state.final]
            await ask_soon(ctx, tx, [job.id for job in known], at_most_every=ASK_AT_MOST_EVERY)
            await actions.note_steps(ctx, tx, caller, [job.id for job in known], "refresh")
            for job in known:
                await note_foreign(tx, caller, "job.refreshed", job.id, job.team_id)
        ctx.notify.nudge(["poll"])
    return {job_id: job_id for job_id in ids}


async def _count_left(ctx: Context, caller: Caller, chosen: Selection, cursor: Cursor | None) -> tuple[int, bool]:
    """How many jobs the parts that follow are about."""
    if cursor is None:
        return 0, False
    before = chosen.before if chosen.asked.created_before is None else min(chosen.before, chosen.asked.created_before)
    asked = replace(chosen.asked, cursor=cursor, created_before=before)
    async with ctx.db.reading() as connection:
        team_id = await identify_team(connection, caller, asked.team)
        return await count_jobs(connection, asked, team_id=team_id, now=ctx.now(), limit=MOST_AT_ONCE)
