"""SQL of what is watched from outside: how far readers of the log are, what came in last, budgets, old retries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow

LATEST_RECEIPTS: Final = 1000
"""Among so many the last one that was applied is looked for."""


async def list_readers(connection: AsyncConnection) -> Sequence[AnyRow]:
    """Our readers of the log, how far each has come, and when the next event after that was (`next_at`), if there is one."""
    return (await connection.execute(_LIST_READERS)).all()


_LIST_READERS: Final = text(
    """
    SELECT name, sequence, updated_at, (
        SELECT at FROM events WHERE events.sequence > log_readers.sequence ORDER BY events.sequence LIMIT 1
    ) AS next_at
    FROM log_readers ORDER BY name
    """
)


async def find_last_webhooks(connection: AsyncConnection) -> AnyRow:
    """When the newest webhook that is kept came in, and the newest one that was applied, among the last 1,000."""
    return (await connection.execute(_FIND_LAST_WEBHOOKS, {"latest": LATEST_RECEIPTS})).one()


_FIND_LAST_WEBHOOKS: Final = text(
    """
    SELECT max(received_at) AS received_at, max(received_at) FILTER (WHERE applied) AS applied_at
    FROM (SELECT received_at, applied FROM receipts ORDER BY id DESC LIMIT :latest) AS latest
    """
)


async def sum_endings(connection: AsyncConnection, *, since: datetime) -> AnyRow:
    """By whose mouth it became known that jobs ended, in the spans of five minutes since then. Test keys' are left out."""
    return (await connection.execute(_SUM_ENDINGS, {"since": since})).one()


_SUM_ENDINGS: Final = text(
    """
    SELECT CAST(coalesce(sum(by_webhook), 0) AS bigint) AS by_webhook, CAST(coalesce(sum(by_poll), 0) AS bigint) AS by_poll
    FROM tallies JOIN teams ON teams.id = team_id
    WHERE span = 'minutes' AND begins_at >= :since AND test_of IS NULL
    """
)


async def find_oldest_retry(connection: AsyncConnection, *, now: datetime, limit: int) -> datetime | None:
    """Since when the oldest delivery is due that was tried before: by one step through the index for each target."""
    due_at: datetime | None = (await connection.execute(_FIND_OLDEST_RETRY, {"now": now, "limit": limit})).scalar_one()
    return due_at


_FIND_OLDEST_RETRY: Final = text(
    """
    WITH RECURSIVE head AS (
        (
            SELECT target, due_at FROM deliveries WHERE due_at IS NOT NULL AND retrying = true
            ORDER BY retrying, target, due_at LIMIT 1
        )
        UNION ALL
        SELECT next.target, next.due_at
        FROM head CROSS JOIN LATERAL (
            SELECT target, due_at FROM deliveries
            WHERE due_at IS NOT NULL AND retrying = true AND target > head.target
            ORDER BY retrying, target, due_at LIMIT 1
        ) AS next
    )
    SELECT min(due_at) FROM (SELECT due_at FROM head LIMIT :limit) AS few WHERE due_at <= :now
    """
)


async def list_budgets(connection: AsyncConnection, month: date, *, limit: int) -> Sequence[AnyRow]:
    """(team, used): which part of its budget of a month a team has reserved and spent; teams without one are left out."""
    return (await connection.execute(_LIST_BUDGETS, {"month": month, "limit": limit})).all()


_LIST_BUDGETS: Final = text(
    """
    SELECT name AS team,
        CASE WHEN monthly_credits = 0 THEN 1.0
            ELSE CAST(coalesce(reserved + spent, 0) AS float8) / monthly_credits END AS used
    FROM teams LEFT JOIN balances ON team_id = id AND month = :month
    WHERE monthly_credits IS NOT NULL
    ORDER BY id LIMIT :limit
    """
)
