"""Send accepted jobs upstream. No transaction is open while the network is.

Claim (a slot, a lease, the frozen wire), send, record: three steps, the same for a job whose caller waits and for one in
the background. From the claim's commit on the job counts as possibly received; only a definite 4xx to the attempt that
made it so takes that back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.apiframe.client import Answer
from app.apiframe.errors import Refusal, Unclear
from app.apiframe.operations import ACTIONS
from app.apiframe.spelling import POLL_ONLY
from app.apiframe.wire import Observation, observe_payload
from app.context import Context
from app.jobs.announce import settle_and_announce
from app.jobs.attempts import Sent, post
from app.jobs.claim import Claim, claim_inline, claim_jobs, lease
from app.jobs.learning import learn
from app.jobs.observe import LockedJob, Observed, lock_jobs, observe, topics
from app.jobs.queries import dispatch
from app.jobs.queries.dispatch import Release
from app.jobs.queries.steps import Step, insert_steps
from app.jobs.refusals import Fate, error_code, fate_of
from app.jobs.schedule import OUT_OF_CREDITS_SECONDS, PAUSE_SECONDS, retry_seconds
from app.jobs.upstream import is_introduced
from app.models.jobs import Status

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be written down of one attempt."""

    verdict: Fate | Literal["accepted", "not ours"]
    seen: Observation | None = None
    release: Release | None = None
    refusal: Mapping[str, Any] | None = None
    again: Claim | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the record of an attempt came to, and the next claim where the same lease goes on under another spelling."""

    decision: Decision
    status: Status
    observed: Observed | None


async def run_once(ctx: Context) -> int:
    """Claim what may be sent now, send it, and return how many jobs that were, once all of them are recorded."""
    tasks = await _start_claimed(ctx)
    if tasks:
        await asyncio.wait(tasks)
    return len(tasks)


async def start_once(ctx: Context) -> int:
    """Like `run_once`, but leave the sending to itself: a slow answer keeps no other job from starting."""
    return len(await _start_claimed(ctx))


async def send_inline(ctx: Context, job_id: UUID) -> Status | None:
    """Send one job while its caller waits, at most `inline_seconds`; its status if the upstream took it, else None.

    It takes its turn like every other job: without a free slot it is left to the Dispatcher at once.
    """
    await ctx.webhook_secrets()
    claim = None
    with suppress(TimeoutError):
        async with asyncio.timeout(ctx.settings.inline_seconds):
            introduced = await is_introduced(ctx)
        claim = await ctx.batched(claim_inline, job_id) if introduced else None
    if claim is None:
        return None
    sending = ctx.start(send(ctx, claim))
    try:
        async with asyncio.timeout(ctx.settings.inline_seconds):
            settlement = await asyncio.shield(sending)
    except TimeoutError:
        return None
    return settlement.status if settlement.decision.verdict == "accepted" else None


async def _start_claimed(ctx: Context) -> list[asyncio.Task[Settlement]]:
    await ctx.webhook_secrets()
    if not await is_introduced(ctx):
        return []
    async with ctx.db.transaction() as tx:
        claims = await claim_jobs(ctx, tx)
    return [ctx.start(send(ctx, claim)) for claim in claims]


async def send(ctx: Context, claim: Claim) -> Settlement:
    """POST a claimed job, record what came of it, tell whoever waits. Goes on at once where only a spelling was wrong."""
    while True:
        sent = await post(ctx, claim)
        was_full = ctx.upstream.free_submissions == 1
        settlement = await ctx.batched(record, sent)
        log.info(
            "job.dispatched", job=str(claim.job_id), status=settlement.status, **sent.told(settlement.decision.verdict)
        )
        if ctx.within is None:  # what the sandbox answers says nothing of the upstream
            ctx.measures.dispatched(settlement.decision.verdict, sent.seconds)
        ctx.notify.nudge(topics([settlement.observed]) if settlement.observed else ())
        if was_full:
            ctx.notify.nudge(["dispatch"])
        # What was learned serves other jobs; this one's caller need not wait for it.
        ctx.start(_learn(ctx, sent, settlement.decision))
        if settlement.decision.again is None:
            return settlement
        claim = settlement.decision.again


async def _learn(ctx: Context, sent: Sent, decision: Decision) -> None:
    url_is_refused = decision.again is not None and decision.again.trail[-1] == POLL_ONLY
    await learn(ctx, sent, accepted=decision.verdict == "accepted", url_is_refused=url_is_refused)


def _step(sent: Sent, decision: Decision) -> Step:
    """The attempt as the job's trace shows it."""
    told = sent.told(decision.verdict) | {"startedAt": sent.started_at}
    return Step(job_id=sent.claim.job_id, at=sent.ended_at, kind="dispatch", source="submit", data=told)


async def record(ctx: Context, tx: AsyncConnection, attempts: Sequence[Sent]) -> list[Settlement]:
    """Write down what came of attempts. Nothing is taken back by an attempt whose lease is no longer the job's."""
    jobs = await lock_jobs(tx, [sent.claim.job_id for sent in attempts])
    made = [_decide(ctx, sent, jobs[sent.claim.job_id]) for sent in attempts]
    await insert_steps(tx, [_step(sent, one) for sent, one in zip(attempts, made, strict=True)])
    await dispatch.record_refusals(tx, {one.seen.job_id: one.refusal for one in made if one.seen and one.refusal})
    await dispatch.release_jobs(tx, [one.release for one in made if one.release], now=ctx.now())
    await lease(ctx, tx, [one.again for one in made if one.again])
    heard = await observe(ctx, tx, jobs, [one.seen for one in made if one.seen])
    await settle_and_announce(ctx, tx, heard)
    observed = iter(heard)
    settlements = []
    for sent, decision in zip(attempts, made, strict=True):
        ours = next(observed) if decision.seen else None
        status = ours.after.status if ours else jobs[sent.claim.job_id].state.status
        settlements.append(Settlement(decision, status, ours))
    return settlements


def _decide(ctx: Context, sent: Sent, job: LockedJob) -> Decision:
    """What an attempt does to its job. Two attempts of one job may meet here; at most one of them holds the lease."""
    claim, result = sent.claim, sent.result
    if isinstance(result, Answer):
        return Decision(verdict="accepted", seen=_said(ctx, claim, result))
    if job.lease_token != claim.lease:
        return Decision(verdict="not ours")
    if isinstance(result, Unclear):
        return Decision(verdict="wait", release=_release(ctx, job, result.retry_after_seconds, unsent=False))
    first = job.ambiguous_by == claim.lease
    fate = fate_of(
        result,
        first=first,
        refusable=job.refusable,
        blames_key=sent.blames_key,
        carries_webhook=claim.trail[-1].field is not None,
        goes_on=claim.operation in ACTIONS,
    )
    if fate == "respell":
        return Decision(verdict=fate, again=claim.respelled(result))
    if fate in ("tell", "end"):
        told = {"status": result.status, "body": result.body} if fate == "tell" else None
        return Decision(verdict=fate, seen=_refused(ctx, claim, result), refusal=told)
    least = {"wait for credits": OUT_OF_CREDITS_SECONDS, "pause": PAUSE_SECONDS}.get(fate, result.retry_after_seconds)
    return Decision(verdict=fate, release=_release(ctx, job, least, unsent=first))


def _release(ctx: Context, job: LockedJob, least_seconds: float | None, *, unsent: bool) -> Release:
    delay = retry_seconds(job.dispatch_count, random.random(), asked_seconds=least_seconds)  # noqa: S311 - jitter
    return Release(id=job.id, due_at=ctx.now() + timedelta(seconds=delay), unsent=unsent)


def _said(ctx: Context, claim: Claim, answer: Answer) -> Observation:
    return observe_payload(
        answer.payload, job_id=claim.job_id, source="submit", at=ctx.now(), request_id=answer.request_id
    )


def _refused(ctx: Context, claim: Claim, refusal: Refusal) -> Observation:
    return Observation(
        job_id=claim.job_id,
        source="framehook",
        at=ctx.now(),
        status="FAILED",
        error=refusal.text,
        error_code=error_code(refusal),
        request_id=refusal.request_id,
    )
