"""Send a subscription an event that is about nothing but itself, to see whether it is received: by the way of all others."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from app.auth import Caller
from app.context import Context
from app.deliveries.claim import LEASE
from app.deliveries.deliver import TRIAL, Sent, deliver
from app.deliveries.filters import Facts
from app.deliveries.publish import News, delivery_of, new_event
from app.deliveries.queries import subscriptions as queries
from app.deliveries.queries.publishing import insert_deliveries
from app.deliveries.queries.sending import list_claimed
from app.errors import NotFound
from app.events.queries import append
from app.teams.audit import note_foreign


async def try_out(ctx: Context, caller: Caller, subscription_id: UUID) -> dict[str, Any]:
    """Deliver a `subscription.test` event now, once, and return what came of it. Raises NotFound.

    A subscription that is disabled is tried out too. Whoever asked may leave: the attempt is recorded all the same.
    """
    now = ctx.now()
    async with ctx.db.transaction() as tx:
        row = await queries.find_subscription(tx, caller.only_team, subscription_id)
        if row is None:
            raise NotFound("Subscription not found")
        data = {"id": row.id, "url": row.url, "description": row.description}
        event = new_event(News(facts=Facts(type=TRIAL, team_id=row.team_id), data=data), now)
        delivery = delivery_of(event, row, now + LEASE, lease=uuid4())
        await insert_deliveries(tx, [delivery], now)
        await note_foreign(tx, caller, "subscription.tested", subscription_id, row.team_id)
        await append(tx, [event])
    ctx.notify.nudge(["events"])
    async with ctx.db.reading() as connection:
        (claimed,) = await list_claimed(connection, [delivery.id])
    ctx.lanes[False].take(claimed.target)
    sent = await ctx.start(deliver(ctx, claimed, at_once=True))
    assert sent is not None, "a test event is made whatever its subscription is like"
    return _shape(delivery.id, sent)


def _shape(delivery_id: UUID, sent: Sent) -> dict[str, Any]:
    reply = sent.reply
    return {
        "deliveryId": delivery_id,
        "eventId": sent.claimed.event_id,
        "delivered": sent.verdict.ended == "delivered",
        "status": reply.status,
        "error": reply.error,
        "seconds": round(reply.seconds, 4),
        "address": reply.address,
        "responseBody": reply.body.decode(errors="replace"),
    }
