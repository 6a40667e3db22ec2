"""Rows as old as a test wants them, and what is left of them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import text

from app.clock import SettableClock, first_id
from tests.harness import Service

DAY: Final = timedelta(days=1)


def noon() -> SettableClock:
    """A clock that begins at noon of tomorrow: no day and no month ends while a test runs."""
    clock = SettableClock()
    now = clock.now()
    clock.advance(((now + DAY).replace(hour=12) - now).total_seconds())
    return clock


def id_of(time: datetime) -> UUID:
    """An id as it would have been made then."""
    return UUID(int=first_id(time).int | uuid4().int & (1 << 62) - 1)


async def insert(service: Service, table: str, values: dict[str, Any]) -> UUID:
    """Insert a row; return its id."""
    places = ", ".join(f":{column}" for column in values)
    async with service.ctx.db.transaction() as tx:
        await tx.execute(text(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})"), values)
    made: UUID = values["id"]
    return made


async def a_delivery(service: Service, age: timedelta, subscription: str | None, **values: Any) -> UUID:
    """A delivery of that age, of an event as old; it was made, unless it is told otherwise."""
    at = service.ctx.now() - age
    usual = {
        "id": id_of(at),
        "event_id": id_of(at),
        "event_at": at,
        "event_type": "job.completed",
        "team_id": uuid4(),
        "subscription_id": subscription,
        "callback_url": None if subscription else "http://127.0.0.1:9/hook",
        "target": subscription or "callback 127.0.0.1:9",
        "created_at": at,
        "status": "delivered",
        "ended_at": at,
        "due_at": None,
    }
    return await insert(service, "deliveries", usual | values)


async def a_replay(service: Service, began: timedelta, subscription: str, ended: timedelta | None) -> UUID:
    """A replay that began so long ago, and ended so long ago or runs."""
    now = service.ctx.now()
    values = {
        "id": id_of(now - began),
        "subscription_id": subscription,
        "created_at": now - began,
        "created_by": "cli",
        "undelivered_only": False,
        "per_second": 50,
        "total_count": 1,
        "status": "running" if ended is None else "done",
        "due_at": now + DAY,
        "ended_at": None if ended is None else now - ended,
    }
    return await insert(service, "replays", values)


async def ids(service: Service, table: str) -> set[UUID]:
    return {row.id for row in await service.rows(f"SELECT id FROM {table}")}


async def days_of(service: Service, table: str) -> set[str]:
    rows = await service.rows(
        "SELECT right(inhrelid::regclass::text, 8) AS day FROM pg_inherits"
        " WHERE inhparent = CAST(CAST(:table AS text) AS regclass)",
        table=table,
    )
    return {row.day for row in rows}
