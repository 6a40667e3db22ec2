"""The limit of requests a minute, shared by all processes: a bucket in the account's row, emptied under its lock.

The bucket holds a tenth of a minute's requests and is filled at the rate of the other nine, so that no minute, wherever
it begins, sees more than the limit.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.context import Context
from app.db import AnyRow
from app.jobs.queries import account

BURST: Final = 0.1
"""The bucket's size, as a share of a minute's requests."""


def refilled(tokens: float | None, at: datetime | None, now: datetime, per_minute: int) -> float:
    """How many requests may be made now, if so many were left at that time. A new bucket is full."""
    burst = max(1.0, per_minute * BURST)
    if tokens is None or at is None:
        return burst
    rate = (per_minute - burst) / 60 if per_minute > 1 else 1 / 60
    return min(burst, tokens + max((now - at).total_seconds(), 0) * rate)


def allowance(ctx: Context, state: AnyRow) -> float:
    """How many requests the locked account may make now; infinite where no limit is set."""
    per_minute = ctx.settings.requests_per_minute
    if per_minute is None:
        return math.inf
    return refilled(state.request_tokens, state.request_tokens_at, ctx.now(), per_minute)


async def spend(ctx: Context, tx: AsyncConnection, allowed: float, count: int) -> None:
    """Take so many requests from an allowance that was read under the lock of the account's row."""
    if count and math.isfinite(allowed):
        await account.write_tokens(tx, ctx.account, allowed - count, ctx.now())


async def take_one(ctx: Context) -> bool:
    """Take one request, in a transaction of its own; False where none may be made now."""
    if ctx.settings.requests_per_minute is None:
        return True
    async with ctx.db.transaction() as tx:
        allowed = allowance(ctx, await account.lock_account(tx, ctx.account, ctx.now()))
        if allowed < 1:
            return False
        await spend(ctx, tx, allowed, 1)
        return True
