"""SQL of sessions and of attempts to sign in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import new_id
from app.db import AnyRow


async def take_attempt(tx: AsyncConnection, address: str, now: datetime, *, most: float, per_second: float) -> bool:
    """Take one of the attempts to sign in that an address has left; False where there is none."""
    values = {"address": address, "now": now, "most": most, "per_second": per_second}
    return (await tx.execute(_TAKE_ATTEMPT, values)).first() is not None


_REFILLED: Final = """least(
    CAST(:most AS float8),
    kept.tokens + greatest(extract(epoch FROM CAST(:now AS timestamptz) - kept.tokens_at), 0) * CAST(:per_second AS float8)
)"""

_TAKE_ATTEMPT: Final = text(
    f"""
    INSERT INTO sign_in_limits AS kept (address, tokens, tokens_at)
    VALUES (:address, CAST(:most AS float8) - 1, :now)
    ON CONFLICT (address) DO UPDATE SET tokens = {_REFILLED} - 1, tokens_at = greatest(kept.tokens_at, excluded.tokens_at)
    WHERE {_REFILLED} >= 1
    RETURNING 1
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def forget_attempts(tx: AsyncConnection, address: str) -> None:
    """An address that signed in has all its attempts again."""
    await tx.execute(text("DELETE FROM sign_in_limits WHERE address = :address"), {"address": address})


async def insert_session(
    tx: AsyncConnection, token_hash: bytes, key_id: UUID, now: datetime, *, address: str, browser: str
) -> UUID:
    """Keep a session and return its id."""
    session_id = new_id()
    values = {"id": session_id, "hash": token_hash, "key_id": key_id, "now": now}
    await tx.execute(_INSERT_SESSION, values | {"address": address, "browser": browser})
    return session_id


_INSERT_SESSION: Final = text(
    """
    INSERT INTO sessions (id, token_hash, key_id, created_at, used_at, address, browser)
    VALUES (:id, :hash, :key_id, :now, :now, :address, :browser)
    """
)


async def find_session(
    connection: AsyncConnection, token_hash: bytes, *, used_after: datetime, made_after: datetime, now: datetime
) -> AnyRow | None:
    """The session behind a cookie (id, key_id), unless it is over; that it was used is written down once a minute."""
    values = {"hash": token_hash, "used_after": used_after, "made_after": made_after, "now": now}
    values |= {"minute_ago": now - timedelta(minutes=1)}
    return (await connection.execute(_FIND_SESSION, values)).one_or_none()


_FIND_SESSION: Final = text(
    """
    WITH found AS (
        SELECT id, key_id, used_at FROM sessions
        WHERE token_hash = :hash AND used_at > :used_after AND created_at > :made_after
    ), touched AS (
        UPDATE sessions SET used_at = :now WHERE id = (SELECT id FROM found WHERE used_at < :minute_ago)
    )
    SELECT id, key_id FROM found
    """
)


async def delete_session(tx: AsyncConnection, session_id: UUID) -> AnyRow | None:
    """End a session and return whose it was (key_id, team_id); None where there is none."""
    return (await tx.execute(_DELETE_SESSION, {"id": session_id})).one_or_none()


_DELETE_SESSION: Final = text(
    """
    DELETE FROM sessions USING api_keys WHERE sessions.id = :id AND api_keys.id = key_id
    RETURNING key_id, api_keys.team_id
    """
)


async def list_sessions(connection: AsyncConnection, *, used_after: datetime, made_after: datetime) -> Sequence[AnyRow]:
    """The sessions that are not over, the one used last first, with the names of their keys and teams."""
    return (await connection.execute(_LIST_SESSIONS, {"used_after": used_after, "made_after": made_after})).all()


_LIST_SESSIONS: Final = text(
    """
    SELECT s.id, s.key_id, s.created_at, s.used_at, s.address, s.browser, k.name AS key_name, k.prefix, t.name AS team
    FROM sessions s JOIN api_keys k ON k.id = s.key_id JOIN teams t ON t.id = k.team_id
    WHERE s.used_at > :used_after AND s.created_at > :made_after AND k.revoked_at IS NULL
    ORDER BY s.used_at DESC, s.id LIMIT 200
    """
)


async def delete_stale(tx: AsyncConnection, *, used_before: datetime, made_before: datetime, limit: int) -> int:
    """Forget sessions that are over, and what was counted of addresses that have been quiet since."""
    values = {"used_before": used_before, "made_before": made_before, "limit": limit}
    sessions = await tx.execute(_DELETE_STALE_SESSIONS, values)
    limits = await tx.execute(_DELETE_STALE_LIMITS, values)
    return sessions.rowcount + limits.rowcount


async def count_stale(connection: AsyncConnection, *, used_before: datetime, made_before: datetime, limit: int) -> int:
    """How many of these there are; up to a limit."""
    values = {"used_before": used_before, "made_before": made_before, "limit": limit}
    return int(await connection.scalar(_COUNT_STALE, values) or 0)


_STALE_SESSIONS: Final = "FROM sessions WHERE used_at < :used_before OR created_at < :made_before LIMIT :limit"
_STALE_LIMITS: Final = "FROM sign_in_limits WHERE tokens_at < :used_before LIMIT :limit"

_DELETE_STALE_SESSIONS: Final = text(f"DELETE FROM sessions WHERE id IN (SELECT id {_STALE_SESSIONS})")  # noqa: S608

_DELETE_STALE_LIMITS: Final = text(
    f"DELETE FROM sign_in_limits WHERE address IN (SELECT address {_STALE_LIMITS})"  # noqa: S608 - the part is ours
)

_COUNT_STALE: Final = text(
    f"""
    SELECT count(*) FROM (
        SELECT 1 FROM ((SELECT 1 {_STALE_SESSIONS}) UNION ALL (SELECT 1 {_STALE_LIMITS})) AS stale LIMIT :limit
    ) AS few
    """  # noqa: S608 - the parts are ours
)
