"""SQL of teams and their limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


async def list_teams(connection: AsyncConnection, *, after: UUID | None, limit: int) -> Sequence[AnyRow]:
    """Teams in the order in which they were made, from behind this one on."""
    statement = f"""
        SELECT {_COLUMNS} FROM teams WHERE CAST(:after AS uuid) IS NULL OR id > :after ORDER BY id LIMIT :limit
        """  # noqa: S608 - a constant of ours
    return (await connection.execute(text(statement), {"after": after, "limit": limit})).all()
