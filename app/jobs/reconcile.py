"""Ask the upstream where nothing was heard. What it answers goes through the same door as its webhooks.

Jobs are asked after under the key that sent them. One question that comes to nothing costs a wait, and no more: the claim
set the next time before anything was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final
from uuid import UUID

import structlog
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from app.apiframe.errors import Refusal, Unclear
from app.apiframe.wire import JobPage, Observation, observe_payload, read_page
from app.context import Context
from app.jobs.announce import settle_and_announce
from app.jobs.observe import LockedJob, Observed, lock_jobs, observe, topics
from app.jobs.queries import polls
from app.jobs.queries.steps import Step, insert_steps
from app.jobs.requests import take_one
from app.jobs.schedule import MISSING_FOR, MISSING_POLL_SECONDS, MISSING_TIMES

log = structlog.get_logger()

SINGLES_AT_ONCE: Final = 20
"""Polls of single jobs in flight per process."""

A_FEW: Final = 100
MOST: Final = 20_000
LONG_WALK_SECONDS: Final = 300.0
"""How long a claim of more than a few jobs holds: a walk through many pages takes its time."""

LIST_MARGIN: Final = timedelta(minutes=1)
"""How much the upstream's clock may be before ours."""

_LOST: Final = ("upstream_lost", "The upstream no longer knows this job")


@dataclass(frozen=True, slots=True)
class Due:
    """A job that this process is to ask after, until `until`. `own_key`: it is asked with the key that sent it."""

    job_id: UUID
    upstream_id: str
    sent_at: datetime
    api_key: str
    own_key: bool
    until: datetime


async def run_once(ctx: Context) -> int:
    """Ask after all jobs that are due, and return how many those were, once they have been asked after."""
    tasks = await _start(ctx)
    await asyncio.gather(*(task for task, _ in tasks))
    return sum(count for _, count in tasks)


async def start_once(ctx: Context) -> int:
    """Like `run_once`, but leave the asking to itself: a long walk keeps no other job from being asked after."""
    return sum(count for _, count in await _start(ctx))


async def ask_now(ctx: Context, job_id: UUID) -> bool:
    """Ask after one job now; False where the upstream did not answer, or may not be asked by the request limit.

    A job that the upstream is not known to have, or that somebody asks after already, needs no question.
    """
    due = await _claim(ctx, only=job_id)
    answered = [await take_one(ctx) and await _poll(ctx, job) for job in due]
    await _give_back(
        ctx, [job for job, done in zip(due, answered, strict=True) if not done], seconds=ctx.settings.sweep_seconds
    )
    return all(answered)


async def ask_soon(
    ctx: Context, tx: AsyncConnection, job_ids: Collection[UUID], *, at_most_every: timedelta
) -> set[UUID]:
    """Move the next poll of these locked jobs to now, or as soon as it may be; return those moved to now."""
    if not job_ids:
        return set()
    return await polls.hint_polls(tx, sorted(job_ids), now=ctx.now(), at_most_every=at_most_every)


async def _start(ctx: Context) -> list[tuple[asyncio.Task[None], int]]:
    due = sorted(await _claim(ctx), key=lambda job: job.api_key)
    groups = [list(jobs) for _, jobs in groupby(due, key=lambda job: job.api_key)]
    return [(ctx.start(_ask(ctx, jobs)), len(jobs)) for jobs in groups]


async def _claim(ctx: Context, *, only: UUID | None = None) -> list[Due]:
    """Take what is due: a few under a short lease, and where those are not all, the rest under a long one."""
    now = ctx.now()
    soon = now + timedelta(seconds=ctx.settings.lease_seconds)
    late = now + timedelta(seconds=LONG_WALK_SECONDS)
    async with ctx.db.transaction() as tx:
        rows = list(await polls.claim_polls(tx, account=ctx.account, limit=A_FEW, now=now, until=soon, only=only))
        if len(rows) == A_FEW:
            rows += await polls.claim_polls(tx, account=ctx.account, limit=MOST, now=now, until=late)
    return [
        Due(
            job_id=row.id,
            upstream_id=row.upstream_id,
            sent_at=row.ambiguous_since,
            api_key=ctx.upstream_keys.get(row.upstream_key, ctx.upstream_key),
            own_key=row.upstream_key in ctx.upstream_keys,
            until=row.poll_at,
        )
        for row in rows
    ]


async def _ask(ctx: Context, due: Sequence[Due]) -> None:
    """Walk the list as long as that is cheaper than single polls, then poll the rest; give back what was not asked."""
    unanswered = {job.upstream_id: job for job in due}
    try:
        await _walk(ctx, unanswered)
        await _poll_each(ctx, unanswered)
    except (Refusal, Unclear) as error:
        log.warning("jobs.polled", jobs=len(unanswered), said=str(error))
    await _give_back(ctx, list(unanswered.values()), seconds=2 * ctx.settings.sweep_seconds)


async def _walk(ctx: Context, unanswered: dict[str, Due]) -> None:
    """Take jobs off the list's pages, newest first, to the oldest that is sought.

    A page costs one request, and so does a single poll: pages without a hit are worth at most as many as are sought.
    """
    cursor, empty_pages = None, 0
    while len(unanswered) > 1 and empty_pages < len(unanswered) and await take_one(ctx):
        api_key = next(iter(unanswered.values())).api_key
        page = read_page((await ctx.upstream.list_jobs(api_key, cursor=cursor)).payload)
        hits = [(unanswered.pop(name), job) for name, job in page.jobs.items() if name in unanswered]
        await asyncio.gather(*(_hear(ctx, due, job) for due, job in hits))
        empty_pages = 0 if hits else empty_pages + 1
        cursor = page.next_cursor
        if cursor is None or not unanswered or _reaches_back(page, unanswered.values()):
            break
    log.info("jobs.listed", left=len(unanswered))


def _reaches_back(page: JobPage, sought: Collection[Due]) -> bool:
    """Whether all that is sought would have to be on this page or the ones before it."""
    return page.oldest is not None and page.oldest < min(job.sent_at for job in sought) - LIST_MARGIN


async def _poll_each(ctx: Context, unanswered: dict[str, Due]) -> None:
    """Ask after every job that is left, a few at a time, as long as the request limit lets us."""
    while unanswered:
        chosen = []
        for job in list(unanswered.values())[:SINGLES_AT_ONCE]:
            if not await take_one(ctx):
                break
            chosen.append(job)
        if not chosen:
            return
        # What fails here stays leased until the claim ends: the upstream is asked again soon enough.
        done = await asyncio.gather(*(_poll(ctx, job) for job in chosen))
        for job, answered in zip(chosen, done, strict=True):
            if answered:
                del unanswered[job.upstream_id]
        if not all(done):
            return


async def _poll(ctx: Context, job: Due) -> bool:
    """Ask after one job; False where no answer came that says anything of it."""
    try:
        answer = await ctx.upstream.get_job(job.api_key, job.upstream_id)
    except Refusal as refusal:
        log.warning("job.polled", job=str(job.job_id), upstream_id=job.upstream_id, said=str(refusal))
        if refusal.status != 404:
            return False
        if not job.own_key:
            await _give_back(ctx, [job], seconds=MISSING_POLL_SECONDS)  # another account's key may well not know it
            return True
        observed = await ctx.batched(miss, Missing(job.job_id, str(refusal)))
        if observed is not None:
            ctx.notify.nudge(topics([observed]))
        return True
    except Unclear as unclear:
        log.warning("job.polled", job=str(job.job_id), upstream_id=job.upstream_id, said=str(unclear))
        return False
    await _hear(ctx, job, answer.payload, request_id=answer.request_id)
    return True


async def _hear(ctx: Context, job: Due, payload: Mapping[str, object], *, request_id: str | None = None) -> None:
    seen = observe_payload(payload, job_id=job.job_id, source="poll", at=ctx.now(), request_id=request_id)
    observed = await ctx.batched(apply, replace(seen, asked_until=job.until))
    ctx.notify.nudge(topics([observed]))
    log.info("job.observed", job=str(job.job_id), source="poll", outcome=observed.outcome, status=observed.after.status)


async def _give_back(ctx: Context, jobs: Sequence[Due], *, seconds: float) -> None:
    """Have jobs of which nothing was heard asked after again after so long, unless a hint moved them meanwhile."""
    due_at = ctx.now() + timedelta(seconds=seconds)
    if jobs:
        async with ctx.db.transaction() as tx:
            await polls.release_polls(tx, [(job.job_id, job.until) for job in jobs], due_at=due_at)


async def apply(ctx: Context, tx: AsyncConnection, seen: Sequence[Observation]) -> list[Observed]:
    """Put what polls said through the door."""
    jobs = await lock_jobs(tx, [one.job_id for one in seen])
    observed = await observe(ctx, tx, jobs, seen)
    await settle_and_announce(ctx, tx, observed)
    return observed


@dataclass(frozen=True, slots=True)
class Missing:
    """The upstream said to the key that sent a job that it has no such job."""

    job_id: UUID
    said: str


async def miss(ctx: Context, tx: AsyncConnection, missing: Sequence[Missing]) -> list[Observed | None]:
    """Count 404s; a job of which nothing else was heard for long enough ends as lost."""
    now = ctx.now()
    jobs = await lock_jobs(tx, [one.job_id for one in missing])
    due_at = now + timedelta(seconds=MISSING_POLL_SECONDS)
    await polls.count_missing(tx, sorted({one.job_id for one in missing}), now=now, due_at=due_at)
    await insert_steps(tx, [_missed(one, jobs[one.job_id], now) for one in missing])
    lost = {job.id: job for job in jobs.values() if not job.state.final and _is_lost(job, now)}
    observed = await observe(ctx, tx, lost, [_conclusion(job_id, now) for job_id in lost])
    await settle_and_announce(ctx, tx, observed)
    ended = {one.seen.job_id: one for one in observed}
    return [ended.get(one.job_id) for one in missing]


def _is_lost(job: LockedJob, now: datetime) -> bool:
    """By the 404s counted before, and this one."""
    since = job.missing_since
    return since is not None and job.missing_count + 1 >= MISSING_TIMES and now - since >= MISSING_FOR


def _missed(one: Missing, job: LockedJob, now: datetime) -> Step:
    data = {"said": one.said, "missingCount": job.missing_count + 1}
    return Step(job_id=one.job_id, at=now, kind="poll", source="poll", data=data)


def _conclusion(job_id: UUID, now: datetime) -> Observation:
    code, error = _LOST
    return Observation(job_id=job_id, source="framehook", at=now, status="FAILED", error=error, error_code=code)
