"""Claim deliveries that are due: only as many as this process will have sent long before their leases end, in two lanes.

The lanes are first attempts and later ones; in each of them a target has a few places. So a subscriber that hangs, or one
that was away for a day, takes up its own places and nobody else's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.bucket import refilled
from app.context import Context
from app.db import AnyRow
from app.deliveries.queries import sending
from app.lanes import PLACES_PER_TARGET

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

LARGEST: Final = 400
"""Deliveries of one claim: more share its cost better, and the event loop is busy with them for longer."""

TOPIC_OF: Final = {False: "deliver", True: "deliver_again"}
"""What wakes the loop of a lane."""


async def claim(ctx: Context, *, lanes: Sequence[bool] = (False, True)) -> list[AnyRow]:
    """Lease what is due in these lanes and take it in hand; see `sending.list_claimed` for what is returned."""
    async with ctx.db.transaction(plans_once=True) as tx:
        claims = [await _lease(ctx, tx, retrying=retrying) for retrying in lanes]
    for one in claims:
        ctx.lanes[one.retrying].note_claim(one.rooms, one.taken, one.short, all_seen=len(one.leased) < one.places)
    return [row for one in claims for row in one.leased]


@dataclass(frozen=True, slots=True)
class _Claim:
    """What was leased in a lane, and what was asked for: so many in all, and so many for each target that is known."""

    retrying: bool
    places: int
    rooms: Mapping[str, int]
    leased: Sequence[AnyRow]

    @property
    def taken(self) -> Counter[str]:
        return Counter(row.target for row in self.leased)

    @property
    def short(self) -> set[str]:
        offered = {row.target: row.offered for row in self.leased}
        return {target for target, count in self.taken.items() if count >= offered[target]}


async def _lease(ctx: Context, tx: AsyncConnection, *, retrying: bool) -> _Claim:
    """Lease what is due in a lane, as far as there is room and rate limits allow it."""
    lane = ctx.lanes[retrying]
    places, rooms = min(lane.left(), LARGEST), lane.rooms()
    if places <= 0:
        return _Claim(retrying, 0, {}, [])
    allowed = await _allowances(ctx, tx, retrying=retrying)
    leased = await sending.lease_due(
        tx,
        retrying=retrying,
        places=places,
        places_per_target=PLACES_PER_TARGET[retrying],
        rooms=rooms,
        allowed={target: int(tokens) for target, tokens in allowed.items()},
        now=ctx.now(),
        until=ctx.now() + LEASE,
    )
    claimed = _Claim(retrying, places, rooms, leased)
    if allowed:
        await _write_tokens(ctx, tx, allowed, claimed)
    return claimed


async def _allowances(ctx: Context, tx: AsyncConnection, *, retrying: bool) -> dict[str, float]:
    """How many deliveries the subscriptions with a rate limit may get now; they are locked until the commit."""
    rows = await sending.lock_limited(tx, retrying=retrying, now=ctx.now())
    return {str(row.id): refilled(row.rate_tokens, row.rate_tokens_at, ctx.now(), row.rate_per_minute) for row in rows}


async def _write_tokens(ctx: Context, tx: AsyncConnection, allowed: Mapping[str, float], claimed: _Claim) -> None:
    counts = claimed.taken
    left = {target: tokens - counts[target] for target, tokens in allowed.items() if counts[target]}
    await sending.write_tokens(tx, left, ctx.now())
    if any(tokens - counts[target] < 1 for target, tokens in allowed.items()):
        asyncio.get_running_loop().call_later(TOKEN_SECONDS, ctx.notify.wake, [TOPIC_OF[claimed.retrying]])


def note_answer(ctx: Context, claimed: AnyRow, *, in_time: bool) -> None:
    """Remember which targets hang, so that they take up one place each, and which of them answer quickly."""
    lane = ctx.lanes[claimed.retrying]
    if not in_time:
        if len(ctx.hanging) >= MOST_HANGING:
            ctx.hanging.clear()
        ctx.hanging.add(claimed.target)
        lane.note_hanging(claimed.target)
    elif claimed.target in ctx.hanging:
        ctx.hanging.remove(claimed.target)
    else:
        lane.note_answer(claimed.target, seconds=(ctx.now() - claimed.leased_until + LEASE).total_seconds())
