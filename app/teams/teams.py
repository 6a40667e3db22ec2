"""Make teams and say what they may do. A change is locked, made and noted in the audit log in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth import Caller
from app.clock import new_id, timestamp, timestamp_or_null
from app.context import Context
from app.db import AnyRow
from app.errors import Conflict, Invalid, NotFound
from app.paging import find_id, read_limit
from app.teams import audit
from app.teams.asking import COLUMN_OF, read_new_team, read_team_changes
from app.teams.queries import teams as queries

log = structlog.get_logger()

DEFAULT_LIMIT: Final = 50
LARGEST_LIMIT: Final = 200


async def create(ctx: Context, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
    """Make a team, and return it. Raises Invalid, or Conflict where there is one of that name."""
    asked, team_id, now = read_new_team(body), new_id(), ctx.now()
    limits = {column: asked[name] for name, column in COLUMN_OF.items() if name in asked}
    paused = {"paused_at": now} if asked.get("paused") else {}
    async with ctx.db.transaction() as tx:
        if not await queries.insert_team(
            tx, {"id": team_id, "name": asked["name"], "created_at": now} | limits | paused
        ):
            raise Conflict("There is a team of this name")
        await audit.note(tx, caller.actor, "team.created", team_id, team_id, **asked)
    log.info("team.created", team=asked["name"], actor=caller.actor)
    return await show(ctx, caller, team_id)


async def change(ctx: Context, caller: Caller, team_id: UUID, body: Mapping[str, Any]) -> dict[str, Any]:
    """Change what a team may do, and return it. Raises NotFound, Invalid."""
    asked = read_team_changes(body)
    async with ctx.db.transaction() as tx:
        if not await apply(tx, caller.actor, team_id, asked, ctx.now()):
            raise NotFound("Team not found")
    ctx.notify.nudge(["dispatch"])
    return await show(ctx, caller, team_id)


async def apply(tx: AsyncConnection, actor: str, team_id: UUID, asked: Mapping[str, Any], now: datetime) -> bool:
    """Change the fields that are different, and note what they were; False if there is no such team."""
    before = await queries.lock_team(tx, team_id)
    if before is None:
        return False
    after = {name: asked[name] for name, column in COLUMN_OF.items() if name in asked}
    after = {name: value for name, value in after.items() if value != getattr(before, COLUMN_OF[name])}
    columns: dict[str, Any] = {COLUMN_OF[name]: value for name, value in after.items()}
    if "requests_per_minute" in columns:
        columns |= {"request_tokens": None, "request_tokens_at": None}
    if after:
        old = {name: getattr(before, COLUMN_OF[name]) for name in after}
        await audit.note(tx, actor, "team.changed", team_id, team_id, before=old, after=after)
    paused = asked.get("paused", before.paused_at is not None)
    if paused != (before.paused_at is not None):
        columns["paused_at"] = now if paused else None
        await audit.note(tx, actor, "team.paused" if paused else "team.resumed", team_id, team_id)
    if columns:
        await queries.update_team(tx, team_id, columns)
    return True


async def apply_by_name(tx: AsyncConnection, actor: str, name: str, asked: Mapping[str, Any], now: datetime) -> bool:
    """The same for a team that is named."""
    team = await queries.find_team(tx, name)
    return team is not None and await apply(tx, actor, team.id, asked, now)


async def show(ctx: Context, caller: Caller, team_id: UUID) -> dict[str, Any]:
    """A team that the caller may see: its own, or with `ops` any. Raises NotFound."""
    async with ctx.db.reading() as connection:
        row = await queries.find_team_by_id(connection, team_id) if caller.only_team in (None, team_id) else None
    if row is None:
        raise NotFound("Team not found")
    return shape_team(row)


async def show_all(ctx: Context, query: Mapping[str, str]) -> dict[str, Any]:
    """A page of teams, in the order in which they were made. Raises Invalid."""
    faults: dict[str, list[str]] = {}
    limit = read_limit(query, faults, default=DEFAULT_LIMIT, largest=LARGEST_LIMIT)
    after = find_id(query.get("cursor"))
    if "cursor" in query and after is None:
        faults["cursor"] = ["Not a cursor of this list"]
    if faults:
        raise Invalid(details=faults)
    async with ctx.db.reading() as connection:
        rows = await queries.list_teams(connection, after=after, limit=limit + 1)
    page, more = rows[:limit], len(rows) > limit
    return {
        "teams": [shape_team(row) for row in page],
        "nextCursor": str(page[-1].id) if more else None,
        "hasMore": more,
    }


def shape_team(row: AnyRow) -> dict[str, Any]:
    """The team object: what it may do."""
    return {
        "id": row.id,
        "name": row.name,
        "createdAt": timestamp(row.created_at),
        **{name: getattr(row, column) for name, column in COLUMN_OF.items()},
        "paused": row.paused_at is not None,
        "pausedAt": timestamp_or_null(row.paused_at),
    }
