"""Make deliveries again: one, or all that failed or happened in a time, a part of them each second until they are done.

An event that is delivered again keeps its id, so that a receiver that had it after all can tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth import Caller
from app.clock import new_id, timestamp
from app.context import Context
from app.db import AnyRow
from app.deliveries.history import show_delivery
from app.deliveries.queries import history, replays
from app.deliveries.queries import subscriptions as queries
from app.deliveries.queries.history import Span
from app.errors import Conflict, Invalid, NotFound
from app.paging import read_time
from app.teams.audit import note, note_each, note_foreign

log = structlog.get_logger()

MOST_AT_ONCE: Final = 200
"""So many deliveries may be chosen to be made again; a replay is for more."""

PER_SECOND: Final = 50
HIGHEST_PER_SECOND: Final = 1000
PART_SECONDS: Final = 1.0
MOST_COUNTED: Final = 100_000
"""A replay is of so many deliveries at most, the oldest ones; `hasMore` says that there may be others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """What is to be made again: all that did not arrive, or everything the subscription wants, between two times."""

    undelivered_only: bool = True
    begins_at: datetime | None = None
    ends_at: datetime | None = None
    per_second: int = PER_SECOND
    dry_run: bool = False

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> ReplayRequest:
        """Read a body; raise Invalid with every fault."""
        faults = {name: ["No such field"] for name in body if name not in _FIELDS}
        times = {name: read_time(body.get(name), name, faults) for name in ("from", "to")}
        if times["from"] and times["to"] and times["from"] >= times["to"]:
            faults["to"] = ["Must be later than `from`"]
        for name in ("undeliveredOnly", "dryRun"):
            if not isinstance(body.get(name, False), bool):
                faults[name] = ["Expected true or false"]
        rate = body.get("perSecond", PER_SECOND)
        if not isinstance(rate, int) or isinstance(rate, bool) or not 1 <= rate <= HIGHEST_PER_SECOND:
            faults["perSecond"] = [f"Expected an integer from 1 to {HIGHEST_PER_SECOND}"]
        if faults:
            raise Invalid(details=faults)
        return cls(
            undelivered_only=body.get("undeliveredOnly", True),
            begins_at=times["from"],
            ends_at=times["to"],
            per_second=rate,
            dry_run=body.get("dryRun", False),
        )


_FIELDS: Final = ("from", "to", "undeliveredOnly", "perSecond", "dryRun")


async def redeliver(ctx: Context, caller: Caller, delivery_id: UUID) -> dict[str, Any]:
    """Make one delivery again, and return it. Raises NotFound, or Conflict while it is under way or may not be made."""
    async with ctx.db.transaction() as tx:
        row = await history.find_delivery(tx, caller.only_team, delivery_id)
        if row is None:
            raise NotFound("Delivery not found")
        if row.subscription_id is not None:
            _must_be_enabled(await queries.find_subscription(tx, None, row.subscription_id))
        if not await history.make_due(tx, [delivery_id], ctx.now()):
            raise Conflict("This delivery is under way already")
        await note_foreign(tx, caller, "delivery.redelivered", delivery_id, row.team_id)
    ctx.notify.nudge(["deliver"])
    log.info("delivery.redelivered", delivery=str(delivery_id), key=str(caller.key_id))
    return await show_delivery(ctx, caller, delivery_id)


async def redeliver_all(ctx: Context, caller: Caller, delivery_ids: Sequence[UUID]) -> int:
    """Make those of these deliveries again that may be made, and return how many those are. Raises Forbidden, Invalid.

    What is under way already, and what a subscription that is disabled or deleted is to be told, stays as it is.
    """
    caller.must("ops")
    if not 0 < len(delivery_ids) <= MOST_AT_ONCE:
        raise Invalid(details={"id": [f"Choose 1 to {MOST_AT_ONCE} deliveries"]})
    async with ctx.db.transaction() as tx:
        ready = {row.id: row.team_id for row in await history.lock_repeatable(tx, delivery_ids)}
        await history.make_due(tx, list(ready), ctx.now())
        await note_each(tx, caller.actor, "delivery.redelivered", ready)
    ctx.notify.nudge(["deliver"])
    log.info("delivery.redelivered", deliveries=len(ready), key=str(caller.key_id))
    return len(ready)


async def start(ctx: Context, caller: Caller, subscription_id: UUID, asked: ReplayRequest) -> dict[str, Any]:
    """Begin a replay and return it, or with `dry_run` only how many deliveries it would make. Raises NotFound, Conflict."""
    now = ctx.now()
    async with ctx.db.transaction() as tx:
        subscription = await queries.find_subscription(tx, caller.only_team, subscription_id)
        if subscription is None:
            raise NotFound("Subscription not found")
        count, after_sequence = await _measure(tx, subscription, asked)
        if asked.dry_run:
            return {"totalCount": count, "hasMore": count >= MOST_COUNTED}
        _must_be_enabled(subscription)
        replay_id = new_id()
        columns = {
            "id": replay_id,
            "subscription_id": subscription_id,
            "created_at": now,
            "created_by": str(caller.key_id),
            "undelivered_only": asked.undelivered_only,
            "begins_at": asked.begins_at,
            "ends_at": min(asked.ends_at, now) if asked.ends_at else now,
            "per_second": asked.per_second,
            "total_count": count,
            "after_sequence": after_sequence,
            "status": "running",
            "due_at": now,
        }
        await replays.insert_replay(tx, columns)
        told = {"subscriptionId": subscription_id, "totalCount": count}
        await note(tx, caller.actor, "replay.started", replay_id, subscription.team_id, **told)
    ctx.notify.nudge(["replay"])
    return await show(ctx, caller, replay_id)


def _must_be_enabled(subscription: AnyRow | None) -> None:
    if subscription is None:
        raise Conflict("The subscription was deleted")
    if subscription.disabled_at is not None:
        raise Conflict("The subscription is disabled: enable it first")


async def abort(ctx: Context, caller: Caller, replay_id: UUID) -> dict[str, Any]:
    """End a replay. What it has made due already is delivered. Raises NotFound, Conflict."""
    async with ctx.db.transaction() as tx:
        row = await replays.find_replay(tx, caller.only_team, replay_id)
        if row is None:
            raise NotFound("Replay not found")
        if not await replays.abort(tx, replay_id, ctx.now()):
            raise Conflict("This replay is over")
        told = {"subscriptionId": row.subscription_id}
        await note(tx, caller.actor, "replay.aborted", replay_id, row.team_id, **told)
    return await show(ctx, caller, replay_id)


async def show(ctx: Context, caller: Caller, replay_id: UUID) -> dict[str, Any]:
    """A replay that the caller may see. Raises NotFound."""
    async with ctx.db.reading() as connection:
        row = await replays.find_replay(connection, caller.only_team, replay_id)
    if row is None:
        raise NotFound("Replay not found")
    return shape_replay(row)


def shape_replay(row: AnyRow) -> dict[str, Any]:
    """The replay object."""
    return {
        "id": row.id,
        "subscriptionId": row.subscription_id,
        "status": row.status,
        "undeliveredOnly": row.undelivered_only,
        "from": timestamp(row.begins_at) if row.begins_at else None,
        "to": timestamp(row.ends_at) if row.ends_at else None,
        "perSecond": row.per_second,
        "totalCount": row.total_count,
        "doneCount": row.done_count,
        "createdAt": timestamp(row.created_at),
        "endedAt": timestamp(row.ended_at) if row.ended_at else None,
    }


async def run_once(ctx: Context) -> int:
    """Make the next part of a replay due: as many deliveries as it may make in a second. Returns how many parts: 0 or 1.

    A replay whose part fails is due again later, so that it keeps no other one from its turn.
    """
    now = ctx.now()
    async with ctx.db.transaction() as tx:
        replay_id = await replays.claim_due(tx, now, until=now + timedelta(seconds=PART_SECONDS))
    if replay_id is None:
        return 0
    asyncio.get_running_loop().call_later(PART_SECONDS, ctx.notify.nudge, ["replay"])
    async with ctx.db.transaction() as tx:
        row = await replays.lock_running(tx, replay_id)
        if row is not None:
            await _advance(tx, row, now)
    ctx.notify.nudge(["deliver"])
    return 1


async def _advance(tx: AsyncConnection, row: AnyRow, now: datetime) -> None:
    """Make the next part of a locked replay due, and end the replay with the last one, or with its subscription."""
    limit = min(row.per_second, row.total_count - row.done_count)
    done, after_sequence, after_delivery = (0, None, None) if row.disabled else await _make_part(tx, row, limit, now)
    over = row.disabled or done < limit or row.done_count + done >= row.total_count
    await replays.record_part(
        tx,
        row.id,
        done=done,
        after_sequence=after_sequence,
        after_delivery=after_delivery,
        status=("aborted" if row.disabled else "done") if over else "running",
        ended_at=now if over else None,
    )


async def _make_part(
    tx: AsyncConnection, row: AnyRow, limit: int, now: datetime
) -> tuple[int, int | None, UUID | None]:
    """How many deliveries became due, and the last of them: in the log, or among the undelivered ones."""
    span = Span(row.begins_at, row.ends_at)
    if row.undelivered_only:
        after = row.after_delivery
        ids = await history.list_undelivered(tx, row.subscription_id, span, after=after, limit=limit)
        await history.make_due(tx, ids, now)
        return len(ids), None, ids[-1] if ids else None
    events = await history.list_matching(tx, row, span, after=row.after_sequence, limit=limit)
    await history.upsert_due(tx, row.subscription_id, row.team_id, events, [new_id() for _ in events], now)
    return len(events), events[-1].sequence if events else None, None


async def _measure(tx: AsyncConnection, subscription: AnyRow, asked: ReplayRequest) -> tuple[int, int]:
    """How many deliveries it would be, and the number of the event before the first of them."""
    span = Span(asked.begins_at, asked.ends_at)
    if asked.undelivered_only:
        return await history.count_undelivered(tx, subscription.id, span, limit=MOST_COUNTED), 0
    count, first = await history.measure_matching(tx, subscription, span, limit=MOST_COUNTED)
    return count, max(first - 1, 0)
