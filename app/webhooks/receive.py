"""Take one webhook in: verify, keep a Receipt, make an Observation, put it through the door, commit, acknowledge."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.apiframe.signature import SIGNATURE_HEADER, Verdict, check
from app.apiframe.wire import Observation, event_of, observe_payload, read_json
from app.clock import new_id
from app.context import Context
from app.errors import NotFound, Unauthenticated
from app.jobs.announce import settle_and_announce
from app.jobs.observe import LockedJob, Observed, lock_jobs, observe, topics
from app.jobs.reconcile import ask_soon
from app.jobs.upstream import note_trouble
from app.webhooks.queries import Receipt, find_applied, insert_receipts

log = structlog.get_logger()

LARGEST_BODY: Final = 4 * 1024 * 1024
KEPT_HEADERS: Final = frozenset({"content-type", "user-agent", "x-request-id", "x-webhook-event", SIGNATURE_HEADER})

APPLIED: Final = ("applied", "nothing new", "after the end")
"""Outcomes after which the same bytes have nothing more to say."""

HINT_EVERY: Final = timedelta(seconds=10)
"""An unsigned webhook moves a job's poll to now at most so often."""

ALARM_EVERY: Final = timedelta(minutes=1)
"""The same for one whose signature is wrong."""


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """A message at our door whose token was found good."""

    job_id: UUID
    received_at: datetime
    digest: bytes
    signature: Verdict
    headers: Mapping[str, str]
    body: bytes
    event: str | None
    seen: Observation | None  # None: the body could not be read

    @property
    def pair(self) -> tuple[UUID, bytes]:
        """What makes two webhooks the same."""
        return self.job_id, self.digest


class Received(msgspec.Struct, frozen=True):
    """What became of a webhook. `observed` is set where it went through the door.

    What is neither applied nor the first of its kind for a while is not kept: a flood of it must cost nothing.
    """

    outcome: str
    observed: Observed | None = None
    hinted: bool = False
    kept: bool = True


async def receive(ctx: Context, job_id: UUID, body: bytes, headers: Mapping[str, str]) -> Received:
    """Receive one webhook; return after the commit. Raises NotFound for an unknown job, Unauthenticated for a wrong
    signature (and for a missing one where unsigned webhooks are to be rejected).
    """
    began = time.perf_counter()
    webhook = read_webhook(ctx, job_id, body, headers)
    received = await ctx.batched(apply, webhook, plans_once=True)
    ctx.measures.webhook_taken(_counted_as(webhook, received), time.perf_counter() - began)
    if received.observed is not None:
        ctx.notify.nudge(topics([received.observed]))
    elif received.hinted:
        ctx.notify.nudge(["poll"])
    if webhook.signature == "wrong" and received.outcome != "no such job":
        await note_trouble(ctx, "webhook signatures do not verify")
    log.info(
        "webhook.received",
        job=str(job_id),
        event_type=webhook.event,
        signature=webhook.signature,
        outcome=received.outcome,
    )
    if received.outcome == "no such job":
        raise NotFound()
    if webhook.signature == "wrong" or received.outcome == "rejected":
        raise Unauthenticated("Webhook signature missing or wrong")
    return received


def _counted_as(webhook: Webhook, received: Received) -> str:
    """What was done with a webhook, in one of the few words that are counted."""
    if received.outcome == "no such job":
        return "unknown_job"
    if webhook.signature != "valid":
        return "wrong_signature" if webhook.signature == "wrong" else "unsigned"
    if received.outcome == "applied":
        return "applied"
    return "repeated" if received.outcome in (*APPLIED, "repeated") else "unusable"


def read_webhook(ctx: Context, job_id: UUID, body: bytes, headers: Mapping[str, str]) -> Webhook:
    """Verify the signature over the raw bytes, and read them."""
    payload, now = _payload(body), ctx.now()
    kept = {name: value for name, value in headers.items() if name in KEPT_HEADERS}
    return Webhook(
        job_id=job_id,
        received_at=now,
        digest=hashlib.sha256(body).digest(),
        signature=check(body, kept.get(SIGNATURE_HEADER), ctx.upstream_keys.values()),
        headers=kept,
        body=body,
        event=event_of(payload) if payload is not None else None,
        seen=observe_payload(payload, job_id=job_id, source="webhook", at=now) if payload is not None else None,
    )


async def apply(ctx: Context, tx: AsyncConnection, webhooks: Sequence[Webhook]) -> list[Received]:
    """Apply webhooks in their order. The same bytes are applied to a job once; answers the same when run again."""
    jobs = await lock_jobs(tx, [webhook.job_id for webhook in webhooks])
    done = await find_applied(tx, [webhook.pair for webhook in webhooks])
    fresh: dict[tuple[UUID, bytes], Observation] = {}
    for webhook in webhooks:
        if webhook.job_id in jobs and webhook.signature == "valid" and webhook.seen and webhook.pair not in done:
            fresh.setdefault(webhook.pair, webhook.seen)
    heard = dict(zip(fresh, await observe(ctx, tx, jobs, list(fresh.values())), strict=True))
    hinted = await _take_hints(ctx, tx, [webhook for webhook in webhooks if webhook.signature != "valid"])
    answers = [_answer(ctx, jobs, webhook, heard.get(webhook.pair), hinted) for webhook in webhooks]
    await insert_receipts(
        tx, [_receipt(webhook, answer) for webhook, answer in zip(webhooks, answers, strict=True) if answer.kept]
    )
    await settle_and_announce(ctx, tx, heard.values())
    return answers


def _answer(
    ctx: Context, jobs: Mapping[UUID, LockedJob], webhook: Webhook, observed: Observed | None, hinted: set[UUID]
) -> Received:
    if webhook.job_id not in jobs:
        return Received("no such job", kept=False)
    if webhook.signature == "valid" and observed is not None:
        if observed.seen is webhook.seen:
            return Received(observed.outcome, observed)
        # A copy in the same batch: told the same, kept once.
        return Received("repeated" if observed.outcome in APPLIED else observed.outcome, kept=False)
    if webhook.signature == "valid":
        return Received("unreadable") if webhook.seen is None else Received("repeated", kept=False)
    if webhook.signature == "absent" and ctx.settings.unsigned_webhooks == "reject":
        return Received("rejected", kept=False)
    first = webhook.job_id in hinted
    hinted.discard(webhook.job_id)
    return Received("hint" if first else "hint again", hinted=first, kept=first)


def _receipt(webhook: Webhook, answer: Received) -> Receipt:
    return Receipt(
        id=new_id(),
        job_id=webhook.job_id,
        received_at=webhook.received_at,
        digest=webhook.digest,
        signature=webhook.signature,
        event=webhook.event,
        applied=answer.outcome in APPLIED,
        outcome=answer.outcome,
        headers=webhook.headers,
        body=webhook.body,
    )


async def _take_hints(ctx: Context, tx: AsyncConnection, webhooks: Sequence[Webhook]) -> set[UUID]:
    """Move polls to now for webhooks that may not be believed, seldom enough that they cannot be used as a lever."""
    wrong = {webhook.job_id for webhook in webhooks if webhook.signature == "wrong"}
    absent = {webhook.job_id for webhook in webhooks if webhook.signature == "absent"} - wrong
    if ctx.settings.unsigned_webhooks == "reject":
        absent = set()
    alarmed = await ask_soon(ctx, tx, wrong, at_most_every=ALARM_EVERY)
    return alarmed | await ask_soon(ctx, tx, absent, at_most_every=HINT_EVERY)


def _payload(body: bytes) -> Mapping[str, Any] | None:
    try:
        payload = read_json(body)
    except ValueError:
        return None
    return payload if isinstance(payload, dict) else None
