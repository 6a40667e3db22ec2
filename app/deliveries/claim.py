"""Claim deliveries that are due: only as many as this process can begin to make now, in two lanes.

The lanes are first attempts and later ones; in each of them a target has a few places. So a subscriber that hangs, or one
that was away for a day, takes up its own places and nobody else's.
"""

from __future__ import annotations

import asyncio
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

LEAST_LEASE: Final = timedelta(seconds=TIMEOUT_SECONDS + 5)
"""An attempt is begun only with so much of its lease left."""

MOST_HANGING: Final = 10_000
"""So many targets are remembered; then all are given another chance."""

TOKEN_SECONDS: Final = 1.0
"""Where a rate limit holds deliveries back, another look is taken after so long."""

PLACES: Final = {False: 400, True: 100}
PLACES_PER_TARGET: Final = {False: 10, True: 4}
"""How many deliveries a process makes at once, in all and for one target; False is the lane of first attempts.

A target whose last attempt got no answer in time has one place until it answers: forty targets that begin to hang at once
fill a lane for one timeout, and from then on four hundred would have to.
"""


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
    taken.update(dict.fromkeys(ctx.hanging, PLACES_PER_TARGET[retrying] - 1))
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
    if any(tokens - counts[target] < 1 for target, tokens in allowed.items()):
        asyncio.get_running_loop().call_later(TOKEN_SECONDS, ctx.notify.nudge, ["deliver"])
    return leased


async def _allowances(ctx: Context, tx: AsyncConnection, *, retrying: bool) -> dict[str, float]:
    """How many deliveries the subscriptions with a rate limit may get now; they are locked until the commit."""
    rows = await sending.lock_limited(tx, retrying=retrying, now=ctx.now())
    return {str(row.id): refilled(row.rate_tokens, row.rate_tokens_at, ctx.now(), row.rate_per_minute) for row in rows}


def take_place(ctx: Context, claimed: AnyRow) -> None:
    """Take the place of a delivery that is leased."""
    ctx.in_hand[(claimed.retrying, claimed.target)] += 1


def note_answer(ctx: Context, claimed: AnyRow, *, in_time: bool) -> None:
    """Remember which targets hang, so that they take up one place each."""
    if in_time:
        ctx.hanging.discard(claimed.target)
        return
    if len(ctx.hanging) >= MOST_HANGING:
        ctx.hanging.clear()
    ctx.hanging.add(claimed.target)


def give_back_place(ctx: Context, claimed: AnyRow) -> None:
    """Free the place of a delivery that was made, and have another one claimed if somebody may wait for it."""
    lane = claimed.retrying
    place = (lane, claimed.target)
    most = 1 if claimed.target in ctx.hanging else PLACES_PER_TARGET[lane]
    was_full = ctx.in_hand[place] >= most or _taken(ctx, lane) >= PLACES[lane]
    ctx.in_hand[place] -= 1
    if not ctx.in_hand[place]:
        del ctx.in_hand[place]
    if was_full:
        ctx.notify.nudge(["deliver"])


def _taken(ctx: Context, lane: bool) -> int:
    return sum(count for (taken_lane, _), count in ctx.in_hand.items() if taken_lane == lane)
