"""What an attempt to send teaches all processes: the spelling that works, a key that does not, an upstream that is down.

It is written after the attempt is recorded and in a transaction of its own: a lesson that is lost costs one more attempt.
"""

from __future__ import annotations

import random
import re
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.apiframe.client import Answer
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
    last, claim = sent.claim.trail[-1], sent.claim
    spelling_is_news = accepted and last.field is not None and not claim.remembered
    key_is_news = not isinstance(sent.result, Answer) or claim.troubled
    if not (spelling_is_news or url_is_refused or key_is_news):
        return
    now, works_again = ctx.now(), False
    async with ctx.db.transaction() as tx:
        if spelling_is_news:
            await account.remember_spelling(tx, ctx.account, field=last.field, events=last.events, now=now)
        if url_is_refused:
            await account.note_trouble(tx, ctx.account, f"the webhook URL is refused: {sent.result}", now)
        works_again = await _judge_key(ctx, tx, sent)
    if works_again:
        ctx.notify.nudge(["dispatch"])


async def _judge_key(ctx: Context, tx: AsyncConnection, sent: Sent) -> bool:
    """Move the breaker of the key that was used; whether it works again by this. A refusal of a request is an answer."""
    result, key, now = sent.result, fingerprint(sent.claim.api_key), ctx.now()
    if isinstance(result, Unclear):
        await _count_failure(ctx, tx, key, result)
    elif sent.blames_key:
        until, reason = now + timedelta(seconds=breaker.REFUSED_HOLD_SECONDS), f"our key is refused: {result}"
        await queries.hold(tx, ctx.account, key, until=until, reason=reason, must_probe=True, now=now)
    elif isinstance(result, Refusal) and result.status == 429:
        until = now + timedelta(seconds=result.retry_after_seconds or breaker.FIRST_HOLD_SECONDS)
        await queries.hold(tx, ctx.account, key, until=until, reason=str(result), must_probe=False, now=now)
        if not _RATE_LIMIT.search(result.text):
            lowered_until = now + timedelta(seconds=breaker.CAP_LOWERED_SECONDS)
            await account.lower_cap(tx, ctx.account, until=lowered_until, now=now)
    elif sent.claim.troubled:
        return await queries.record_success(tx, ctx.account, key, now)
    return False


async def _count_failure(ctx: Context, tx: AsyncConnection, key: str, unclear: Unclear) -> None:
    known = (await queries.list_troubled(tx, ctx.account)).get(key)
    failures = (known.failure_count if known else 0) + 1
    await queries.record_failure(
        tx,
        ctx.account,
        key,
        reason=f"the upstream is in trouble: {unclear}",
        opens_at=breaker.FAILURES_TO_OPEN,
        hold=breaker.hold_for(
            failures,
            random.random(),  # noqa: S311 - jitter
            asked_seconds=unclear.retry_after_seconds,
        ),
        now=ctx.now(),
    )
