"""Make deliveries: claim what is due, sign and POST with no transaction open, record the attempts.

A delivery is made again until its record says that it was made, so a crash in between repeats it with the same id.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.apiframe.callback import callback_body, callback_event, callback_headers
from app.clock import new_id
from app.context import Context
from app.db import AnyRow
from app.deliveries import health
from app.deliveries.claim import LEAST_LEASE, TIMEOUT_SECONDS, TOPIC_OF, claim, note_answer
from app.deliveries.publish import DELETED, DISABLED, TOPICS, publish
from app.deliveries.queries import sending
from app.deliveries.queries.sending import AttemptRow, Health, Outcome
from app.deliveries.signing import signed_headers
from app.deliveries.verdict import Verdict, judge
from app.events.feed import shape_event
from app.outbound.client import Reply

log = structlog.get_logger()

HIDDEN: Final = "***"
"""What stands for the values of headers that a subscriber gave, which may be secrets."""

TRIAL: Final = "subscription.test"
"""The event that tries a subscription out, made once."""

PAST_RETENTION: Final = "the event is past its retention"
SUPERSEDED: Final = "the job was over before its progress was told"

SOON_SECONDS: Final = 60.0
"""Attempts that are due within so long are waited for; later ones are found by the sweep."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """One try: the claimed delivery, when it began, what came back, and what that means."""

    id: UUID
    claimed: AnyRow
    at: datetime
    request_headers: Mapping[str, Any]
    reply: Reply
    verdict: Verdict


class Ended(msgspec.Struct, frozen=True):
    """A claimed delivery that ends without an attempt."""

    claimed: AnyRow
    verdict: Verdict


async def run_once(ctx: Context) -> int:
    """Make what is due, and return how many deliveries that were, once all of them are recorded."""
    tasks = await _start_claimed(ctx)
    if tasks:
        await asyncio.wait(tasks)
    return len(tasks)


async def start_once(ctx: Context) -> int:
    """Like `run_once`, but leave the sending to itself: a receiver that hangs keeps nobody else waiting."""
    return len(await _start_claimed(ctx))


async def start_first_attempts(ctx: Context) -> int:
    """Start what is due for the first time, as far as there is room; 0 where whatever else is due has to wait for some."""
    started = await _start_claimed(ctx, lanes=(False,))
    return len(started) if ctx.lanes[False].has_hungry() else 0


async def start_later_attempts(ctx: Context) -> int:
    """The same for what failed before."""
    started = await _start_claimed(ctx, lanes=(True,))
    return len(started) if ctx.lanes[True].has_hungry() else 0


async def _start_claimed(ctx: Context, *, lanes: Sequence[bool] = (False, True)) -> list[asyncio.Task[Sent | None]]:
    return [ctx.start(deliver(ctx, claimed)) for claimed in await claim(ctx, lanes=lanes)]


async def deliver(ctx: Context, claimed: AnyRow, *, at_once: bool = False) -> Sent | None:
    """Make one claimed delivery, in its turn or at once, and record it; None where it was not made."""
    lane = ctx.lanes[claimed.retrying]
    try:
        if (verdict := _unsent(claimed)) is not None:
            await ctx.batched(end, Ended(claimed, verdict))
            return None
        if at_once:
            lane.enter_at_once(claimed.target)
        else:
            await lane.enter(claimed.target)
        try:
            if claimed.leased_until - ctx.now() < LEAST_LEASE:
                return None  # its lease may be over before it is made: whoever claims it next makes it
            sent = await attempt(ctx, claimed)
        finally:
            lane.leave(claimed.target)  # what is being recorded keeps nobody from being sent to
        if await ctx.batched(record, sent, plans_once=True):
            ctx.notify.nudge(TOPICS)
    finally:
        if lane.give_back(claimed.target):
            ctx.notify.wake([TOPIC_OF[claimed.retrying]])
    _tell(ctx, sent)
    return sent


def _unsent(claimed: AnyRow) -> Verdict | None:
    """What becomes of a delivery that is not to be made after all."""
    if claimed.data is None:
        return Verdict("undelivered", PAST_RETENTION, unmade=True)
    if claimed.deleted:
        return Verdict("undelivered", DELETED, unmade=True)
    if claimed.disabled and not _is_trial(claimed):
        return Verdict("undelivered", DISABLED, unmade=True)
    if _is_progress(claimed) and claimed.job_is_over:
        return Verdict("dropped", SUPERSEDED, unmade=True)
    return None


def _is_trial(claimed: AnyRow) -> bool:
    """Whether somebody only wants to see what comes of it, though the subscription be disabled."""
    return bool(claimed.event_type == TRIAL)


def _is_progress(claimed: AnyRow) -> bool:
    """Whether it is a callback about progress, which is told once or not at all."""
    return claimed.subscription_id is None and claimed.event_type == "job.progress"


async def attempt(ctx: Context, claimed: AnyRow) -> Sent:
    """Sign and POST a claimed delivery, and judge what comes back. Nothing is recorded here."""
    at = ctx.now()
    given, own, reply = claimed.headers or {}, {}, Reply(status=None, error="it could not be sent", seconds=0)
    try:
        body, headers = _callback(claimed) if claimed.subscription_id is None else _event(claimed, at)
        own = {"content-type": "application/json", **headers}
        reply = await ctx.http.post(claimed.url, body, {**given, **own}, timeout_seconds=TIMEOUT_SECONDS)
    except Exception:  # whatever it is, it is recorded as a failure: unrecorded it would be repeated for ever
        log.exception("delivery.failed", delivery=str(claimed.delivery_id))
    note_answer(ctx, claimed, in_time=reply.status is not None or reply.seconds < TIMEOUT_SECONDS)
    verdict = judge(
        reply.status,
        _number(claimed),
        random.random(),  # noqa: S311 - jitter, not a secret
        retry_after=reply.retry_after_seconds,
        once=_is_trial(claimed) or _is_progress(claimed),
    )
    return Sent(
        id=new_id(),
        claimed=claimed,
        at=at,
        request_headers=own | dict.fromkeys(given, HIDDEN),
        reply=reply,
        verdict=verdict,
    )


def _event(claimed: AnyRow, at: datetime) -> tuple[bytes, dict[str, str]]:
    body = msgspec.json.encode(shape_event(claimed))
    secrets = [claimed.secret]
    if claimed.previous_secret is not None and claimed.previous_secret_until > at:
        secrets.append(claimed.previous_secret)
    return body, signed_headers(claimed.event_id, at, body, secrets)


def _callback(claimed: AnyRow) -> tuple[bytes, dict[str, str]]:
    event = callback_event(claimed.event_type)
    assert event is not None, "a callback was made of an event that Apiframe does not have"
    body = callback_body(event, msgspec.json.decode(claimed.data))
    return body, callback_headers(event, body, bytes(claimed.key_hash))


async def end(ctx: Context, tx: AsyncConnection, endings: Sequence[Ended]) -> list[None]:
    """End deliveries without an attempt, those that are still under their leases."""
    await sending.record_outcomes(tx, [_outcome(one.claimed, one.verdict, ctx.now()) for one in endings], ctx.now())
    return [None] * len(endings)


async def record(ctx: Context, tx: AsyncConnection, sent: Sequence[Sent]) -> list[bool]:
    """Keep attempts, and what they mean for those deliveries that are still under their leases.

    Answers whether anything was published by it: a subscription that was disabled. Safe to run again.
    """
    now = ctx.now()
    outcomes = [_outcome(one.claimed, one.verdict, now) for one in sent]
    rows = await _lock_unsteady(tx, sent, now)
    ours = await sending.record_outcomes(tx, outcomes, now)
    await sending.insert_attempts(tx, [_attempt(one, then.due_at) for one, then in zip(sent, outcomes, strict=True)])
    healths = _healths(rows, [one for one in sent if one.claimed.delivery_id in ours], now)
    over = health.disabled(healths)
    await sending.record_health(tx, list(healths.values()), now)
    if over:
        await publish(ctx, tx, [health.disabled_news(rows[each], reason, now) for each, reason in over.items()])
    return [bool(over)] * len(sent)


async def _lock_unsteady(tx: AsyncConnection, sent: Sequence[Sent], now: datetime) -> dict[UUID, AnyRow]:
    """Lock the subscriptions that do not just go on to fare well: the others' rows are left alone, and free for others."""
    seen = await sending.list_health(tx, {one.claimed.subscription_id for one in sent} - {None})
    unsteady = _healths(seen, sent, now)
    return await sending.lock_subscriptions(tx, unsteady) if unsteady else {}


def _healths(rows: Mapping[UUID, AnyRow], sent: Sequence[Sent], now: datetime) -> dict[UUID, Health]:
    verdicts: dict[UUID, list[Verdict]] = {}
    for one in sent:
        if one.claimed.subscription_id in rows and not _is_trial(one.claimed):
            verdicts.setdefault(one.claimed.subscription_id, []).append(one.verdict)
    found = {each: health.health_of(rows[each], said, now) for each, said in verdicts.items()}
    return {each: one for each, one in found.items() if one is not None}


def _outcome(claimed: AnyRow, verdict: Verdict, now: datetime) -> Outcome:
    due_at = None if verdict.again_seconds is None else now + timedelta(seconds=verdict.again_seconds)
    return Outcome(
        id=claimed.delivery_id,
        lease_token=claimed.lease_token,
        attempt_count=claimed.attempt_count if verdict.unmade else _number(claimed),
        status=verdict.ended or "pending",
        reason=verdict.reason,
        due_at=due_at,
    )


def _number(claimed: AnyRow) -> int:
    """Which attempt this is, from 1: those that nobody recorded do not count."""
    return int(claimed.attempt_count) + 1


def _attempt(sent: Sent, next_at: datetime | None) -> AttemptRow:
    return AttemptRow(
        id=sent.id,
        delivery_id=sent.claimed.delivery_id,
        at=sent.at,
        number=_number(sent.claimed),
        seconds=round(sent.reply.seconds, 4),
        status=sent.reply.status,
        error=sent.reply.error,
        address=sent.reply.address,
        request_headers=sent.request_headers,
        response_body=sent.reply.body,
        next_at=next_at,
    )


def _counted_as(reply: Reply) -> str:
    """What came of an attempt, in one of the few words that are counted."""
    if reply.status is not None:
        return "delivered" if 200 <= reply.status < 300 else "failed"
    return "blocked" if reply.refused else "timeout" if reply.seconds >= TIMEOUT_SECONDS else "unreachable"


def _tell(ctx: Context, sent: Sent) -> None:
    ctx.measures.attempted(_counted_as(sent.reply))
    again = sent.verdict.again_seconds
    if again is not None and again <= SOON_SECONDS:
        asyncio.get_running_loop().call_later(again, ctx.notify.wake, [TOPIC_OF[True]])
    log.info(
        "delivery.attempted",
        delivery=str(sent.claimed.delivery_id),
        event_id=str(sent.claimed.event_id),
        event_type=sent.claimed.event_type,
        attempt=_number(sent.claimed),
        status=sent.reply.status,
        error=sent.reply.error,
        seconds=round(sent.reply.seconds, 3),
        outcome=sent.verdict.ended or "again",
    )
