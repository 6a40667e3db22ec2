"""The limit of requests a minute, shared by all processes: a bucket in the account's row, emptied under its lock."""

from __future__ import annotations

import math

from sqlalchemy.ext.asyncio import AsyncConnection

from app.bucket import refilled
from app.context import Context
from app.db import AnyRow
from app.jobs.queries import account


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
