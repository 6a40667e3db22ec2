"""Claim deliveries that are due: only as many as this process can begin to make now, in two lanes.

The lanes are first attempts and later ones; in each of them a target has a few places. So a subscriber that hangs, or one
that was away for a day, takes up its own places and nobody else's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.bucket import refilled
from app.context import Context
from app.db import AnyRow
from app.deliveries.queries import sending

TIMEOUT_SECONDS: Final = 15.0
"""A receiver has so long to answer."""

LEASE: Final = timedelta(seconds=TIMEOUT_SECONDS + 10)
"""The attempt, and time to record what came of it."""

PLACES: Final = {False: 200, True: 50}
PLACES_PER_TARGET: Final = {False: 16, True: 4}
"""How many deliveries a process makes at once, in all and for one target; False is the lane of first attempts."""


async def claim(ctx: Context) -> list[AnyRow]:
    """Lease what is due and take places for it; see `sending.list_claimed` for what is returned."""
    async with ctx.db.transaction() as tx:
        leased = [row for retrying in (False, True) for row in await _lease(ctx, tx, retrying=retrying)]
        claimed = await sending.list_claimed(tx, [row.id for row in leased]) if leased else []
    for row in claimed:
        take_place(ctx, row)
    return list(claimed)


async def _lease(ctx: Context, tx: AsyncConnection, *, retrying: bool) -> Sequence[AnyRow]:
    """Lease what is due in a lane, as far as there are places and rate limits allow it."""
    taken = Counter({target: count for (lane, target), count in ctx.in_hand.items() if lane == retrying})
    places = PLACES[retrying] - taken.total()
    if places <= 0:
        return []
    allowed = await _allowances(ctx, tx, retrying=retrying)
    leased = await sending.lease_due(
        tx,
        retrying=retrying,
        places=places,
        places_per_target=PLACES_PER_TARGET[retrying],
        taken=taken,
        allowed={target: int(tokens) for target, tokens in allowed.items()},
        now=ctx.now(),
        until=ctx.now() + LEASE,
    )
    counts = Counter(row.target for row in leased)
    left = {target: tokens - counts[target] for target, tokens in allowed.items() if counts[target]}
    await sending.write_tokens(tx, left, ctx.now())
    return leased


async def _allowances(ctx: Context, tx: AsyncConnection, *, retrying: bool) -> dict[str, float]:
    """How many deliveries the subscriptions with a rate limit may get now; they are locked until the commit."""
    rows = await sending.lock_limited(tx, retrying=retrying, now=ctx.now())
    return {str(row.id): refilled(row.rate_tokens, row.rate_tokens_at, ctx.now(), row.rate_per_minute) for row in rows}


def take_place(ctx: Context, claimed: AnyRow) -> None:
    """Take the place of a delivery that is leased."""
    ctx.in_hand[(claimed.retrying, claimed.target)] += 1


def give_back_place(ctx: Context, claimed: AnyRow) -> None:
    """Free the place of a delivery that was made, and have another one claimed if somebody may wait for it."""
    lane = claimed.retrying
    place = (lane, claimed.target)
    was_full = ctx.in_hand[place] >= PLACES_PER_TARGET[lane] or _taken(ctx, lane) >= PLACES[lane]
    ctx.in_hand[place] -= 1
    if not ctx.in_hand[place]:
        del ctx.in_hand[place]
    if was_full:
        ctx.notify.nudge(["deliver"])


def _taken(ctx: Context, lane: bool) -> int:
    return sum(count for (taken_lane, _), count in ctx.in_hand.items() if taken_lane == lane)
