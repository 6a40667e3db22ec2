"""SQL of API keys. A key's hash is the secret that its callbacks are signed with, so it is never read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow

_COLUMNS: Final = """k.id, k.team_id, t.name AS team, k.name, k.prefix, k.scopes, k.created_at, k.expires_at, k.revoked_at,
    k.last_used_at, k.rotated_to, (SELECT name FROM teams tested WHERE tested.id = t.test_of) AS tested_team"""

_OF_TEAM: Final = "(CAST(:team_id AS uuid) IS NULL OR k.team_id = :team_id)"


async def find_key(connection: AsyncConnection, team_id: UUID | None, key_id: UUID) -> AnyRow | None:
    """A key of this team, or with None of any."""
    return (await connection.execute(text(_FIND), {"id": key_id, "team_id": team_id})).one_or_none()


async def lock_key(tx: AsyncConnection, key_id: UUID) -> AnyRow | None:
    """Lock a key of any team; jobs may refer to it meanwhile."""
    locking = text(f"{_FIND} FOR NO KEY UPDATE OF k")
    return (await tx.execute(locking, {"id": key_id, "team_id": None})).one_or_none()


_FIND: Final = f"SELECT {_COLUMNS} FROM api_keys k JOIN teams t ON t.id = k.team_id WHERE k.id = :id AND {_OF_TEAM}"  # noqa: S608


async def lock_admin_keys(tx: AsyncConnection, now: datetime) -> Sequence[AnyRow]:
    """Lock all admin keys that are good now, in the order of their ids: whoever revokes one sees what the others do."""
    return (await tx.execute(_LOCK_ADMINS, {"now": now})).all()


_LOCK_ADMINS: Final = text(
    """
    SELECT id, expires_at FROM api_keys
    WHERE 'admin' = ANY(scopes) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)
    ORDER BY id FOR NO KEY UPDATE
    """
)


async def list_keys(
    connection: AsyncConnection, team_id: UUID | None, *, after: UUID | None, limit: int
) -> Sequence[AnyRow]:
    """Keys of this team, or with None of all, revoked ones too, in the order in which they were made."""
    return (await connection.execute(_LIST, {"team_id": team_id, "after": after, "limit": limit})).all()


_LIST: Final = text(
    f"""
    SELECT {_COLUMNS} FROM api_keys k JOIN teams t ON t.id = k.team_id
    WHERE {_OF_TEAM} AND (CAST(:after AS uuid) IS NULL OR k.id > :after)
    ORDER BY k.id LIMIT :limit
    """  # noqa: S608 - the only parts put in are constants of ours
)


async def supersede_key(tx: AsyncConnection, key_id: UUID, *, by: UUID, expires_at: datetime) -> None:
    """Let a locked key end then, and say which key takes its place."""
    await tx.execute(
        text("UPDATE api_keys SET rotated_to = :by, expires_at = :expires_at WHERE id = :id"),
        {"id": key_id, "by": by, "expires_at": expires_at},
    )
