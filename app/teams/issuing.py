"""What admins do to keys: make, rotate and revoke them, each noted in the audit log by the transaction that does it.

An admin key cannot be the last to go: nobody could make another one over HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth import Caller
from app.clock import timestamp, timestamp_or_null
from app.context import Context
from app.db import AnyRow
from app.errors import Conflict, Invalid, NotFound
from app.paging import find_id, read_limit
from app.teams import audit, keys
from app.teams.asking import NewKeyRequest
from app.teams.keys import NewKey
from app.teams.queries import keys as queries
from app.teams.queries.teams import find_team
from app.teams.seeing import narrowed, team_of_keys

log = structlog.get_logger()

DEFAULT_LIMIT: Final = 50
LARGEST_LIMIT: Final = 200


async def create(ctx: Context, caller: Caller, asked: NewKeyRequest) -> dict[str, Any]:
    """Make a key for a team that there is, and return it with the `key` itself. Raises Invalid."""
    async with ctx.db.transaction() as tx:
        if await find_team(tx, asked.team) is None:
            raise Invalid(details={"team": ["There is no team of this name"]})
        made = await issue(tx, caller.actor, asked, ctx.now())
    log.info("key.created", key=str(made.id), team=made.team, actor=caller.actor)
    return await show(ctx, caller, made.id) | {"key": made.key}


async def issue(tx: AsyncConnection, actor: str, asked: NewKeyRequest, now: datetime) -> NewKey:
    """Make a key, and its team if it is new."""
    is_new = await find_team(tx, asked.team) is None
    made = await keys.create_key(
        tx,
        team=asked.team,
        scopes=asked.scopes,
        now=now,
        name=asked.name,
        expires_at=asked.expires_at,
        test=asked.test,
    )
    if is_new:
        await audit.note(tx, actor, "team.created", made.team_id, made.team_id, name=made.team)
    await audit.note(
        tx, actor, "key.created", made.id, made.team_id, name=asked.name, scopes=made.scopes, **_end(asked.expires_at)
    )
    return made


async def rotate(ctx: Context, caller: Caller, key_id: UUID, *, grace_seconds: float) -> dict[str, Any]:
    """Make a key that takes this one's place: the same team, name, scopes, and length of life if that has an end.

    The one before is good for the grace, at most. Returns the new key with the `key` itself. Raises NotFound, or Conflict
    for a key that is over, or was rotated already.
    """
    await _must_rule(ctx, caller, key_id)
    now = ctx.now()
    async with ctx.db.transaction() as tx:
        old = await _lock(tx, key_id)
        _must_be_good(old, now)
        if old.rotated_to is not None:
            raise Conflict("This key was rotated already")
        life = old.expires_at - old.created_at if old.expires_at else None
        ends_at = now + timedelta(seconds=grace_seconds)
        ends_at = min(ends_at, old.expires_at or ends_at)
        new = await keys.create_key(
            tx,
            team=old.tested_team or old.team,
            scopes=old.scopes,
            now=now,
            name=old.name,
            expires_at=now + life if life else None,
            test=old.tested_team is not None,
        )
        await queries.supersede_key(tx, key_id, by=new.id, expires_at=ends_at)
        await audit.note(tx, caller.actor, "key.rotated", key_id, old.team_id, to=new.id, **_end(ends_at))
    log.info("key.rotated", key=str(key_id), to=str(new.id), actor=caller.actor)
    shown = await show(ctx, caller, new.id)
    return shown | {"key": new.key, "previousKeyId": key_id, "previousExpiresAt": timestamp(ends_at)}


async def revoke(ctx: Context, caller: Caller, key_id: UUID) -> None:
    """Revoke a key; one that is revoked stays so. Raises NotFound, or Conflict for the last admin key."""
    await _must_rule(ctx, caller, key_id)
    now = ctx.now()
    async with ctx.db.transaction() as tx:
        admins = await queries.lock_admin_keys(tx, now)
        old = await _lock(tx, key_id)
        if old.revoked_at is not None:
            return
        if any(key.id == key_id for key in admins) and not any(_outlives(key, old) for key in admins):
            raise Conflict("No other admin key is good for as long: make one first, or nobody can")
        await keys.revoke_key(tx, key_id, now)
        await audit.note(tx, caller.actor, "key.revoked", key_id, old.team_id, name=old.name)
    log.info("key.revoked", key=str(key_id), actor=caller.actor)


async def show(ctx: Context, caller: Caller, key_id: UUID) -> dict[str, Any]:
    """A key of the caller's team, or with `admin` of any. Raises NotFound."""
    async with ctx.db.reading() as connection:
        row = await queries.find_key(connection, team_of_keys(caller), key_id)
    if row is None:
        raise NotFound("Key not found")
    return _shape(row)


async def show_all(ctx: Context, caller: Caller, query: Mapping[str, str]) -> dict[str, Any]:
    """A page of those keys, in the order in which they were made. Raises Invalid, Forbidden."""
    faults: dict[str, list[str]] = {}
    limit = read_limit(query, faults, default=DEFAULT_LIMIT, largest=LARGEST_LIMIT)
    after = find_id(query.get("cursor"))
    if "cursor" in query and after is None:
        faults["cursor"] = ["Not a cursor of this list"]
    if faults:
        raise Invalid(details=faults)
    async with ctx.db.reading() as connection:
        team_id = await narrowed(connection, caller, team_of_keys(caller), query.get("team"))
        rows = await queries.list_keys(connection, team_id, after=after, limit=limit + 1)
    page, more = rows[:limit], len(rows) > limit
    return {"keys": [_shape(row) for row in page], "nextCursor": str(page[-1].id) if more else None, "hasMore": more}


async def _must_rule(ctx: Context, caller: Caller, key_id: UUID) -> None:
    """Keys are an admin's affair. Whoever is none hears of its own team's keys that it may not, and of no others."""
    if "admin" not in caller.scopes:
        await show(ctx, caller, key_id)
        caller.must("admin")


async def _lock(tx: AsyncConnection, key_id: UUID) -> AnyRow:
    row = await queries.lock_key(tx, key_id)
    if row is None:
        raise NotFound("Key not found")
    return row


def _must_be_good(key: AnyRow, now: datetime) -> None:
    if key.revoked_at is not None:
        raise Conflict("This key is revoked")
    if key.expires_at is not None and key.expires_at <= now:
        raise Conflict("This key has expired")


def _outlives(key: AnyRow, other: AnyRow) -> bool:
    """Whether another key is good for as long as this one is."""
    if key.id == other.id:
        return False
    return key.expires_at is None or (other.expires_at is not None and key.expires_at >= other.expires_at)


def _end(expires_at: datetime | None) -> dict[str, str | None]:
    return {"expiresAt": timestamp_or_null(expires_at)}


def _shape(row: AnyRow) -> dict[str, Any]:
    times = {"createdAt": row.created_at, "expiresAt": row.expires_at, "revokedAt": row.revoked_at}
    return {
        "id": row.id,
        "team": row.team,
        "name": row.name,
        "prefix": row.prefix,
        "scopes": row.scopes,
        **{name: timestamp_or_null(time) for name, time in times.items()},
        "lastUsedAt": timestamp_or_null(row.last_used_at),
        "rotatedTo": row.rotated_to,
        "test": row.tested_team is not None,
    }
