"""SQL of teams and their limits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow

_COLUMNS: Final = """id, name, created_at, paused_at, archived_modalities, requests_per_minute, queued_limit,
    in_flight_limit, allowed_operations, allowed_models, monthly_credits"""


async def insert_team(tx: AsyncConnection, values: Mapping[str, Any]) -> bool:
    """Keep a new team; `values` are its columns. False if there is one of that name."""
    columns, places = ", ".join(values), ", ".join(f":{column}" for column in values)
    statement = f"INSERT INTO teams ({columns}) VALUES ({places}) ON CONFLICT (name) DO NOTHING"  # noqa: S608 - columns are ours
    return (await tx.execute(text(statement), values)).rowcount == 1


async def update_team(tx: AsyncConnection, team_id: UUID, values: Mapping[str, Any]) -> None:
    """Change columns of a team that this transaction holds locked."""
    changes = ", ".join(f"{column} = :{column}" for column in values)
    await tx.execute(text(f"UPDATE teams SET {changes} WHERE id = :team_id"), {**values, "team_id": team_id})  # noqa: S608


async def lock_team(tx: AsyncConnection, team_id: UUID) -> AnyRow | None:
    """Lock a team's row; jobs and keys may refer to it meanwhile."""
    statement = f"SELECT {_COLUMNS} FROM teams WHERE id = :id FOR NO KEY UPDATE"  # noqa: S608 - a constant of ours
    return (await tx.execute(text(statement), {"id": team_id})).one_or_none()


async def find_team_by_id(connection: AsyncConnection, team_id: UUID) -> AnyRow | None:
    """A team by its id."""
    statement = f"SELECT {_COLUMNS} FROM teams WHERE id = :id"  # noqa: S608 - a constant of ours
    return (await connection.execute(text(statement), {"id": team_id})).one_or_none()


async def find_team(connection: AsyncConnection, name: str) -> AnyRow | None:
    """A team by its name."""
    statement = f"SELECT {_COLUMNS} FROM teams WHERE name = :name"  # noqa: S608 - a constant of ours
    return (await connection.execute(text(statement), {"name": name})).one_or_none()


async def find_team_id(connection: AsyncConnection, name: str) -> UUID | None:
    """The id of the team of this name."""
    found: UUID | None = await connection.scalar(text("SELECT id FROM teams WHERE name = :name"), {"name": name})
    return found


_STANDING: Final = f"""
    SELECT {", ".join(f"t.{column.strip()}" for column in _COLUMNS.split(","))}, t.test_of, tested.name AS tested_team,
        (SELECT twin.id FROM teams twin WHERE twin.test_of = t.id) AS twin_id, t.monthly_credits AS budget,
        coalesce(b.reserved, 0) AS reserved, coalesce(b.spent, 0) AS spent, (
            SELECT count(*) FROM (
                SELECT 1 FROM api_keys k
                WHERE k.team_id = t.id AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > :now)
                LIMIT :most
            ) AS few
        ) AS key_count
    FROM teams t LEFT JOIN teams tested ON tested.id = t.test_of
        LEFT JOIN balances b ON b.team_id = t.id AND b.month = :month
    """  # noqa: S608 - the part is ours

MOST_KEYS: Final = 1000
"""So many good keys of a team are counted."""


async def list_standing(
    connection: AsyncConnection, *, month: date, now: datetime, named: str, after: str, limit: int
) -> Sequence[AnyRow]:
    """Teams by name, from behind the one called `after`, whose names hold `named`: limits, balance, good keys."""
    statement = f"""{_STANDING}
        WHERE t.name > :after AND position(lower(:named) IN lower(t.name)) > 0 ORDER BY t.name LIMIT :limit
        """
    asked = {"month": month, "now": now, "most": MOST_KEYS + 1, "named": named, "after": after, "limit": limit}
    return (await connection.execute(text(statement), asked)).all()


async def find_standing(connection: AsyncConnection, team_id: UUID, *, month: date, now: datetime) -> AnyRow | None:
    """The same of one team."""
    asked = {"id": team_id, "month": month, "now": now, "most": MOST_KEYS + 1}
    return (await connection.execute(text(f"{_STANDING} WHERE t.id = :id"), asked)).one_or_none()


async def list_team_names(connection: AsyncConnection, ids: Collection[UUID]) -> dict[UUID, str]:
    """What these teams are called."""
    rows = await connection.execute(
        text("SELECT id, name FROM teams WHERE id = ANY(CAST(:ids AS uuid[]))"), {"ids": list(ids)}
    )
    return {row.id: row.name for row in rows}


async def list_teams(connection: AsyncConnection, *, after: UUID | None, limit: int) -> Sequence[AnyRow]:
    """Teams in the order in which they were made, from behind this one on."""
    statement = f"""
        SELECT {_COLUMNS} FROM teams WHERE CAST(:after AS uuid) IS NULL OR id > :after ORDER BY id LIMIT :limit
        """  # noqa: S608 - a constant of ours
    return (await connection.execute(text(statement), {"after": after, "limit": limit})).all()
