"""SQL of who was told of one job, and what each answered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.statements import Statement

MOST_DELIVERIES: Final = 200
MOST_ATTEMPTS: Final = 200
LONGEST_ANSWER: Final = 2000


async def list_deliveries_of(connection: AsyncConnection, job_id: UUID) -> Sequence[AnyRow]:
    """The newest deliveries of a job's events, oldest first, with where they go."""
    rows = await _LIST_DELIVERIES.fetch(connection, {"job_id": job_id, "limit": MOST_DELIVERIES})
    return rows[::-1]


_LIST_DELIVERIES: Final = Statement(
    """
    SELECT d.id, d.event_type, d.event_at, d.subscription_id, d.status, d.reason, d.ended_at, d.due_at, d.attempt_count,
        d.lease_token IS NOT NULL AS is_leased, coalesce(d.callback_url, s.url) AS url, s.description, t.name AS team
    FROM deliveries d JOIN teams t ON t.id = d.team_id LEFT JOIN subscriptions s ON s.id = d.subscription_id
    WHERE d.job_id = :job_id ORDER BY d.id DESC LIMIT :limit
    """
)


async def list_answers(connection: AsyncConnection, delivery_ids: Sequence[UUID], *, since: datetime) -> list[AnyRow]:
    """The newest attempts of these deliveries (delivery_id, at, address, body): the beginning of what was answered."""
    parameters = {"ids": list(delivery_ids), "since": since, "limit": MOST_ATTEMPTS, "longest": LONGEST_ANSWER}
    return list(await _LIST_ANSWERS.fetch(connection, parameters))


_LIST_ANSWERS: Final = Statement(
    """
    SELECT delivery_id, at, address, substring(response_body FROM 1 FOR :longest) AS body
    FROM attempts WHERE delivery_id = ANY(CAST(:ids AS uuid[])) AND at >= :since
    ORDER BY at DESC, id DESC LIMIT :limit
    """
)
