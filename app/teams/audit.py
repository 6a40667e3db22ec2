"""The audit log: what admins and operators did, noted in the transaction that does it. No secret is ever in it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth import Caller
from app.clock import first_id, new_id, timestamp
from app.context import Context
from app.db import AnyRow
from app.errors import Invalid
from app.paging import find_id, read_limit, read_time
from app.teams.seeing import narrowed

DEFAULT_LIMIT: Final = 50
LARGEST_LIMIT: Final = 500


async def note(
    tx: AsyncConnection, actor: str, action: str, subject: UUID | str, team_id: UUID | None = None, **data: Any
) -> None:
    """Write down what somebody did to something: `actor` is a key's id or `cli`, `action` such as `key.revoked`.

    `team_id` is whose affair it is, who may read of it; None means everybody's, which operators read.
    """
    values = {"id": new_id(), "actor": actor, "action": action, "subject": str(subject), "team_id": team_id}
    await tx.execute(_INSERT, values | {"data": msgspec.json.encode(data).decode()})


async def note_each(tx: AsyncConnection, actor: str, action: str, subjects: Mapping[UUID, UUID | None]) -> None:
    """Write down that somebody did the same to many things, each of which is the affair of a team."""
    values = {"actor": actor, "action": action, "ids": [new_id() for _ in subjects]}
    subjected = {"subjects": [str(subject) for subject in subjects], "team_ids": list(subjects.values())}
    await tx.execute(_INSERT_EACH, values | subjected)


async def note_foreign(
    tx: AsyncConnection, caller: Caller, action: str, subject: UUID | str, team_id: UUID, **data: Any
) -> None:
    """Write down what a caller does to a thing of another team; what a team does to its own is its own affair."""
    if caller.is_foreign_to(team_id):
        await note(tx, caller.actor, action, subject, team_id, **data)


async def show_entries(ctx: Context, caller: Caller, query: Mapping[str, str]) -> dict[str, Any]:
    """A page of entries that the caller may see, newest first. Raises Invalid, Forbidden."""
    faults: dict[str, list[str]] = {}
    limit = read_limit(query, faults, default=DEFAULT_LIMIT, largest=LARGEST_LIMIT)
    since = read_time(query.get("since"), "since", faults)
    before = find_id(query.get("cursor"))
    if "cursor" in query and before is None:
        faults["cursor"] = ["Not a cursor of this list"]
    if "\0" in query.get("action", ""):
        faults["action"] = ["Must not contain a NUL character"]
    if faults:
        raise Invalid(details=faults)
    asked = {"action": query.get("action", ""), "since": since, "before": before, "limit": limit + 1}
    async with ctx.db.reading() as connection:
        team_id = await narrowed(connection, caller, caller.only_team, query.get("team"))
        rows = (await connection.execute(_LIST, asked | {"team_id": team_id})).all()
    page, more = rows[:limit], len(rows) > limit
    return {
        "entries": [_shape(row) for row in page],
        "nextCursor": str(page[-1].id) if more else None,
        "hasMore": more,
    }


async def delete_old(tx: AsyncConnection, before: datetime, *, limit: int) -> int:
    """Forget entries of before a time; how many those were."""
    return (await tx.execute(_DELETE_OLD, {"before_id": first_id(before), "limit": limit})).rowcount


async def count_old(connection: AsyncConnection, before: datetime, *, limit: int) -> int:
    """How many entries are of before a time; up to a limit."""
    return int(await connection.scalar(_COUNT_OLD, {"before_id": first_id(before), "limit": limit}) or 0)


def _shape(row: AnyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "at": timestamp(row.at),
        "actor": row.actor,
        "action": row.action,
        "subject": row.subject,
        "team": row.team,
        "data": msgspec.Raw(row.data.encode()),
    }


_INSERT: Final = text(
    """
    INSERT INTO audit_log (id, at, team_id, actor, action, subject, data)
    VALUES (:id, now(), :team_id, :actor, :action, :subject, CAST(:data AS jsonb))
    """
)

_INSERT_EACH: Final = text(
    """
    INSERT INTO audit_log (id, at, team_id, actor, action, subject, data)
    SELECT id, now(), team_id, :actor, :action, subject, '{}'
    FROM unnest(CAST(:ids AS uuid[]), CAST(:team_ids AS uuid[]), CAST(:subjects AS text[])) AS new (id, team_id, subject)
    """
)

_LIST: Final = text(
    """
    SELECT a.id, a.at, a.actor, a.action, a.subject, t.name AS team, CAST(a.data AS text) AS data
    FROM audit_log a LEFT JOIN teams t ON t.id = a.team_id
    WHERE (CAST(:team_id AS uuid) IS NULL OR a.team_id = :team_id) AND starts_with(a.action, :action)
        AND (CAST(:since AS timestamptz) IS NULL OR a.at >= :since)
        AND (CAST(:before AS uuid) IS NULL OR a.id < :before)
    ORDER BY a.id DESC LIMIT :limit
    """
)

_OLD: Final = "FROM audit_log WHERE id < :before_id ORDER BY id LIMIT :limit"

_DELETE_OLD: Final = text(f"DELETE FROM audit_log WHERE id = ANY(ARRAY(SELECT id {_OLD} FOR UPDATE SKIP LOCKED))")  # noqa: S608

_COUNT_OLD: Final = text(f"SELECT count(*) FROM (SELECT 1 {_OLD}) AS few")  # noqa: S608 - the part is ours
