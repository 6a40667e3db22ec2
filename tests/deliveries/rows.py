"""What tests of deliveries look for in the database, and put into it where doing it over HTTP would take too long."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import text

from tests.harness import Service


async def deliveries(service: Service) -> list[Any]:
    """All deliveries, oldest first."""
    return await service.rows("SELECT * FROM deliveries ORDER BY id")


async def attempts(service: Service) -> list[Any]:
    """All attempts, in the order in which they began."""
    return await service.rows("SELECT * FROM attempts ORDER BY at, id")


async def multiply(service: Service, count: int) -> None:
    """Copy the one delivery and its event until there are so many of both."""
    async with service.ctx.db.transaction() as tx:
        copies = {"count": count}
        await tx.execute(
            text(
                """
                INSERT INTO events (id, at, sequence, type, team_id, job_id, data)
                SELECT gen_random_uuid(), at, nextval('event_numbers'), type, team_id, job_id, data
                FROM events, generate_series(2, :count) WHERE id IN (SELECT event_id FROM deliveries)
                """
            ),
            copies,
        )
        await tx.execute(
            text(
                """
                INSERT INTO deliveries (id, event_id, event_at, event_type, team_id, job_id, subscription_id, callback_url,
                    callback_key_id, target, created_at, status, due_at)
                SELECT gen_random_uuid(), events.id, events.at, events.type, events.team_id, events.job_id,
                    subscription_id, callback_url, callback_key_id, target, created_at, status, due_at
                FROM deliveries, events WHERE events.id <> deliveries.event_id AND events.type = deliveries.event_type
                """
            )
        )


async def age(service: Service, seconds: float, subscription_id: str) -> None:
    """Have a subscription's troubles begun so much earlier."""
    async with service.ctx.db.transaction() as tx:
        await tx.execute(
            text(
                "UPDATE subscriptions SET failing_since = failing_since - make_interval(secs => :seconds) WHERE id = :id"
            ),
            {"seconds": seconds, "id": UUID(subscription_id)},
        )
