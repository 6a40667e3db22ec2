"""What an attempt to send teaches all processes: the spelling that works, a key that does not, an upstream that is down.

It is written after the attempt is recorded and in a transaction of its own: a lesson that is lost costs one more attempt.
"""

from __future__ import annotations

import asyncio
import random
import re
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.apiframe.errors import Refusal, Unclear
from app.apiframe.signature import fingerprint
from app.context import Context
from app.jobs import breaker
from app.jobs.attempts import Sent
from app.jobs.queries import account
from app.jobs.queries import breaker as queries

_RATE_LIMIT: Final = re.compile(r"\brate\b|requests", re.IGNORECASE)
"""What a 429 says that is about requests a minute and not about jobs at once."""


async def learn(ctx: Context, sent: Sent, *, accepted: bool, url_is_refused: bool) -> None:
    """Write down what everybody should know after this attempt, if anything."""
    last = sent.claim.trail[-1]
    spelling_is_news = accepted and last.field is not None and not sent.claim.remembered
    key_is_news = _count(ctx, sent)
    if not (spelling_is_news or url_is_refused or key_is_news):
        return
    now, hold = ctx.now(), None
    async with ctx.db.transaction() as tx:
        if spelling_is_news:
            await account.remember_spelling(tx, ctx.account, field=last.field, events=last.events, now=now)
        if url_is_refused:
            await account.note_trouble(tx, ctx.account, f"the webhook URL is refused: {sent.result}", now)
        if key_is_news:
            hold = await _move_breaker(ctx, tx, sent)
    if hold is not None:
        # Whatever waits goes on as soon as it may; without this, at the next sweep.
        asyncio.get_running_loop().call_later(hold.total_seconds(), ctx.notify.nudge, ["dispatch"])


def _count(ctx: Context, sent: Sent) -> bool:
    """Count failures in a row, and say whether the key's breaker has to be moved. A refusal of a request is an answer."""
    key, result = fingerprint(sent.claim.api_key), sent.result
    if not isinstance(result, Unclear):
        ctx.failures.pop(key, None)
        return sent.claim.troubled or sent.blames_key or (isinstance(result, Refusal) and result.status == 429)
    ctx.failures[key] += 1
    return sent.claim.probe or ctx.failures[key] >= breaker.FAILURES_TO_OPEN


async def _move_breaker(ctx: Context, tx: AsyncConnection, sent: Sent) -> timedelta:
    """Hold the key that was used, or let it go; return for how long it is held."""
    result, key, now = sent.result, fingerprint(sent.claim.api_key), ctx.now()
    if isinstance(result, Unclear):
        known = (await queries.list_troubled(tx, ctx.account)).get(key)
        failures = (known.failure_count if known and sent.claim.probe else 0) + 1
        spread = random.random()  # noqa: S311 - jitter
        hold = breaker.hold_for(failures, spread, asked_seconds=result.retry_after_seconds)
        reason = f"the upstream is in trouble: {result}"
        await queries.record_failure(
            tx, ctx.account, key, probe=sent.claim.probe, until=now + hold, reason=reason, now=now
        )
        return hold
    if sent.blames_key:
        hold = timedelta(seconds=breaker.REFUSED_HOLD_SECONDS)
        reason = f"our key is refused: {result}"
        await queries.hold(tx, ctx.account, key, until=now + hold, reason=reason, must_probe=True, now=now)
        return hold
    if isinstance(result, Refusal) and result.status == 429:
        if sent.claim.probe:
            await queries.record_success(tx, ctx.account, key, now)  # an upstream that counts requests is up
        hold = timedelta(seconds=result.retry_after_seconds or breaker.FIRST_HOLD_SECONDS)
        await queries.hold(tx, ctx.account, key, until=now + hold, reason=str(result), must_probe=False, now=now)
        if not _RATE_LIMIT.search(result.text):
            lowered_until = now + timedelta(seconds=breaker.CAP_LOWERED_SECONDS)
            await account.lower_cap(tx, ctx.account, until=lowered_until, now=now)
        return hold
    await queries.record_success(tx, ctx.account, key, now)
    return timedelta()
