"""SQL of subscriptions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow

_COLUMNS: Final = """s.id, s.team_id, t.name AS team, s.created_at, s.updated_at, s.url, s.description, s.types,
    s.all_teams, s.operation, s.model, s.metadata, s.headers, s.rate_per_minute, s.disabled_at, s.disabled_reason,
    s.failure_count, s.failing_since, s.last_success_at"""
"""All but the secrets, which are shown when they are made and never again."""

_JSON_FIELDS: Final = frozenset({"metadata", "headers"})


async def insert_subscription(tx: AsyncConnection, values: Mapping[str, Any]) -> None:
    """Keep a new subscription; `values` are its columns."""
    columns = ", ".join(values)
    places = ", ".join(_place(column) for column in values)
    await tx.execute(text(f"INSERT INTO subscriptions ({columns}) VALUES ({places})"), _encoded(values))  # noqa: S608


async def update_subscription(tx: AsyncConnection, subscription_id: UUID, values: Mapping[str, Any]) -> None:
    """Change columns of a subscription that this transaction holds locked."""
    changes = ", ".join(f"{column} = {_place(column)}" for column in values)
    await tx.execute(
        text(f"UPDATE subscriptions SET {changes} WHERE id = :subscription_id"),  # noqa: S608 - columns are ours
        _encoded(values) | {"subscription_id": subscription_id},
    )


async def lock_subscription(tx: AsyncConnection, team_id: UUID | None, subscription_id: UUID) -> AnyRow | None:
    """Lock a subscription of this team, or with None of any; its secrets are among what is returned."""
    return (await tx.execute(_LOCK, {"id": subscription_id, "team_id": team_id})).one_or_none()


_LOCK: Final = text(
    """
    SELECT id, team_id, all_teams, secret, disabled_at FROM subscriptions
    WHERE id = :id AND deleted_at IS NULL AND (CAST(:team_id AS uuid) IS NULL OR team_id = :team_id)
    FOR NO KEY UPDATE
    """
)


async def find_subscription(connection: AsyncConnection, team_id: UUID | None, subscription_id: UUID) -> AnyRow | None:
    """A subscription of this team, or with None of any."""
    return (await connection.execute(_FIND, {"id": subscription_id, "team_id": team_id})).one_or_none()


_FIND: Final = text(
    f"""
    SELECT {_COLUMNS} FROM subscriptions s JOIN teams t ON t.id = s.team_id
    WHERE s.id = :id AND s.deleted_at IS NULL AND (CAST(:team_id AS uuid) IS NULL OR s.team_id = :team_id)
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def list_subscriptions(connection: AsyncConnection, team_id: UUID | None) -> Sequence[AnyRow]:
    """The subscriptions of this team, or with None of all, oldest first."""
    return (await connection.execute(_LIST, {"team_id": team_id})).all()


_LIST: Final = text(
    f"""
    SELECT {_COLUMNS} FROM subscriptions s JOIN teams t ON t.id = s.team_id
    WHERE s.deleted_at IS NULL AND (CAST(:team_id AS uuid) IS NULL OR s.team_id = :team_id)
    ORDER BY s.id
    """  # noqa: S608 - the only part put in is a constant of ours
)


STATES: Final[Mapping[str, str]] = {
    "enabled": "s.disabled_at IS NULL",
    "failing": "s.disabled_at IS NULL AND s.failing_since IS NOT NULL",
    "disabled": "s.disabled_at IS NOT NULL",
}
"""How a subscription may stand. One that fails is enabled too."""


async def list_standing(
    connection: AsyncConnection, *, team_id: UUID | None, state: str | None, before: UUID | None, limit: int
) -> Sequence[AnyRow]:
    """Subscriptions of a team or of all, in one of `STATES` or any, newest first, older than the one `before` names."""
    conditions = ["s.deleted_at IS NULL", STATES[state] if state else "true"]
    conditions += ["s.team_id = :team_id"] if team_id is not None else []
    conditions += ["s.id < :before"] if before is not None else []
    statement = f"""
        SELECT {_COLUMNS} FROM subscriptions s JOIN teams t ON t.id = s.team_id
        WHERE {" AND ".join(conditions)} ORDER BY s.id DESC LIMIT :limit
        """  # noqa: S608 - all parts are ours
    return (await connection.execute(text(statement), {"team_id": team_id, "before": before, "limit": limit})).all()


async def count_undelivered(connection: AsyncConnection, ids: Collection[UUID], *, limit: int) -> dict[UUID, int]:
    """How many deliveries of each of these subscriptions ended without success, each counted up to a limit."""
    rows = await connection.execute(_COUNT_UNDELIVERED, {"ids": list(ids), "limit": limit})
    return {row.id: row.found for row in rows}


_COUNT_UNDELIVERED: Final = text(
    """
    SELECT asked.id, few.found FROM unnest(CAST(:ids AS uuid[])) AS asked (id) CROSS JOIN LATERAL (
        SELECT count(*) AS found FROM (
            SELECT 1 FROM deliveries WHERE subscription_id = asked.id AND status = 'undelivered' ORDER BY id LIMIT :limit
        ) AS one
    ) AS few
    """
)


async def count_subscriptions(tx: AsyncConnection, team_id: UUID) -> int:
    """How many subscriptions a team has, which only this transaction can change until it commits."""
    await tx.execute(text("SELECT 1 FROM teams WHERE id = :team_id FOR NO KEY UPDATE"), {"team_id": team_id})
    count: int = await tx.scalar(
        text("SELECT count(*) FROM subscriptions WHERE team_id = :team_id AND deleted_at IS NULL"), {"team_id": team_id}
    )
    return count


def _place(column: str) -> str:
    return f"CAST(:{column} AS jsonb)" if column in _JSON_FIELDS else f":{column}"


def _encoded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        column: msgspec.json.encode(value).decode() if column in _JSON_FIELDS and value is not None else value
        for column, value in values.items()
    }
