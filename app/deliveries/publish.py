"""Publish: append events and make their deliveries, in the transaction that makes them true and as its last act.

What is told here reaches everybody who subscribed by then, whatever happens to this process next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.apiframe.callback import callback_event
from app.clock import new_id
from app.context import Context
from app.db import AnyRow
from app.deliveries.filters import Facts, Wanted, matches
from app.deliveries.queries.publishing import NewDelivery, insert_deliveries, list_listening
from app.events.queries import NewEvent, append


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """Where the caller of one job wants to be told, of which of Apiframe's events, and under whose key."""

    url: str
    events: Sequence[str]
    key_id: UUID


class News(msgspec.Struct, frozen=True, kw_only=True):
    """Something that became true: what the event says, and what filters look at."""

    facts: Facts
    job_id: UUID | None = None
    data: Mapping[str, Any]
    callback: Callback | None = None


async def publish(ctx: Context, tx: AsyncConnection, news: Sequence[News]) -> None:
    """Append news as events and make their deliveries. The last statements of the transaction (kernel rules 5 and 6).

    Nudge `TOPICS` after the commit.
    """
    await append(tx, await make_deliveries(ctx, tx, news))


async def make_deliveries(ctx: Context, tx: AsyncConnection, news: Sequence[News]) -> list[NewEvent]:
    """Make the deliveries of news, and return the events, which are to be appended as the last act of the transaction."""
    if not news:
        return []
    now = ctx.now()
    listening = [(filter_of(row), row) for row in await list_listening(tx, {one.facts.team_id for one in news})]
    events = [new_event(one, now) for one in news]
    deliveries = [each for one, event in zip(news, events, strict=True) for each in _due(one, event, listening, now)]
    await insert_deliveries(tx, deliveries, now)
    return events


TOPICS = ("events", "deliver")
"""Whom to nudge after the commit: readers of the log, and whoever makes deliveries."""


def new_event(one: News, now: datetime) -> NewEvent:
    """The event of a piece of news, not numbered yet."""
    return NewEvent(
        id=new_id(),
        at=now,
        type=one.facts.type,
        team_id=one.facts.team_id,
        job_id=one.job_id,
        data=msgspec.json.encode(one.data).decode(),
    )


def filter_of(row: AnyRow) -> Wanted:
    """What a subscription wants to be told."""
    return Wanted(
        types=row.types,
        team_id=None if row.all_teams else row.team_id,
        operation=row.operation,
        model=row.model,
        metadata=row.metadata,
    )


def delivery_of(event: NewEvent, subscription: AnyRow, due_at: datetime | None, **more: Any) -> NewDelivery:
    """The delivery of an event to a subscription. It is the affair of the subscriber's team, whosever the event is."""
    return NewDelivery(
        id=new_id(),
        event_id=event.id,
        event_at=event.at,
        event_type=event.type,
        team_id=subscription.team_id,
        job_id=event.job_id,
        subscription_id=subscription.id,
        target=str(subscription.id),
        due_at=due_at,
        **more,
    )


def _due(one: News, event: NewEvent, listening: Iterable[tuple[Wanted, AnyRow]], now: datetime) -> list[NewDelivery]:
    """The deliveries of one event. For a subscription that is disabled they are kept, to be made when somebody asks."""
    told = [row for wanted, row in listening if matches(wanted, one.facts)]
    due = [
        delivery_of(event, row, None, status="undelivered", reason=DISABLED)
        if row.disabled
        else delivery_of(event, row, now)
        for row in told
    ]
    if one.callback is not None and callback_event(event.type) in one.callback.events:
        due.append(_callback(one.callback, event, now))
    return due


DISABLED = "the subscription is disabled"
DELETED = "the subscription was deleted"


def _callback(callback: Callback, event: NewEvent, now: datetime) -> NewDelivery:
    return NewDelivery(
        id=new_id(),
        event_id=event.id,
        event_at=event.at,
        event_type=event.type,
        team_id=event.team_id,
        job_id=event.job_id,
        callback_url=callback.url,
        callback_key_id=callback.key_id,
        target=f"callback {event.team_id} {urlsplit(callback.url).netloc.lower()}",
        due_at=now,
    )
