"""What operators see of the deliveries of all teams: to whom, what came of it, and how far was looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth import Caller
from app.clock import time_of_id, timestamp, timestamp_or_null
from app.context import Context
from app.db import AnyRow
from app.deliveries.history import CLOCKS_DIFFER, shape_attempt, shape_delivery
from app.deliveries.queries import finding as queries
from app.deliveries.queries import history
from app.deliveries.queries.finding import Sought
from app.errors import Invalid, NotFound
from app.events.queries import find_event
from app.models.deliveries import DELIVERY_STATUSES
from app.models.events import EVENT_TYPES
from app.paging import find_id
from app.teams.queries.teams import list_team_names
from app.teams.seeing import narrowed

FILTERS: Final = ("status", "subscription", "team", "type", "job")


async def find_deliveries(ctx: Context, caller: Caller, query: Mapping[str, str], *, limit: int) -> dict[str, Any]:
    """A page of deliveries of all teams, newest first, by any of `FILTERS`. Raises Forbidden, Invalid.

    Where looking ended before all were found, `lookedTo` is a time, and `nextCursor` goes on from there.
    """
    caller.must("ops")
    before = _check(query)
    async with ctx.db.reading() as connection:
        sought = Sought(
            job_id=find_id(query.get("job")),
            subscription_id=find_id(query.get("subscription")),
            team_id=await narrowed(connection, caller, None, query.get("team")),
            status=query.get("status"),
            event_type=query.get("type"),
        )
        found = await queries.list_found(connection, sought, before=before, limit=limit + 1)
        page, more = found.rows[:limit], len(found.rows) > limit
        shown = await _describe(connection, page)
    after = page[-1].id if more else found.looked_to
    looked_to = None if more or found.looked_to is None else timestamp(time_of_id(found.looked_to))
    return {"deliveries": shown, "nextCursor": str(after) if after else None, "lookedTo": looked_to}


async def show_found(ctx: Context, caller: Caller, delivery_id: UUID) -> dict[str, Any]:
    """A delivery of any team with its attempts, and its event where that is still kept. Raises Forbidden, NotFound."""
    caller.must("ops")
    async with ctx.db.reading() as connection:
        row = await history.find_delivery(connection, None, delivery_id)
        if row is None:
            raise NotFound("Delivery not found")
        attempts = await history.list_attempts(connection, delivery_id, since=row.created_at - CLOCKS_DIFFER)
        event = await find_event(connection, row.event_id, row.event_at)
        (shown,) = await _describe(connection, [row])
    return shown | {
        "attempts": [shape_attempt(attempt) for attempt in attempts],
        "event": None if event is None else msgspec.json.decode(event.data),
        "eventAt": timestamp(row.event_at),
    }


async def _describe(connection: AsyncConnection, rows: Sequence[AnyRow]) -> list[dict[str, Any]]:
    """Deliveries with the names of their teams and targets, and how their last attempts went."""
    teams = await list_team_names(connection, {row.team_id for row in rows})
    targets = await queries.list_targets(connection, {row.subscription_id for row in rows} - {None})
    attempted = {row.id: row.created_at - CLOCKS_DIFFER for row in rows if row.attempt_count or not row.due_at}
    last = await queries.list_last_attempts(connection, attempted)
    return [
        shape_delivery(row)
        | {
            "team": teams.get(row.team_id, ""),
            "teamId": row.team_id,
            "isLeased": row.is_leased,
            "target": _shape_target(row, targets.get(row.subscription_id)),
            "lastAttempt": _shape_last(last.get(row.id)),
        }
        for row in rows
    ]


def _shape_target(row: AnyRow, subscription: AnyRow | None) -> dict[str, Any]:
    """`description` is empty where nobody gave one; a callback has none."""
    if subscription is None:
        return {"url": row.callback_url or "", "description": "", "deleted": False, "disabled": False}
    return {
        "url": subscription.url,
        "description": subscription.description,
        "deleted": subscription.deleted_at is not None,
        "disabled": subscription.disabled_at is not None,
    }


def _shape_last(attempt: AnyRow | None) -> dict[str, Any] | None:
    if attempt is None:
        return None
    at = timestamp_or_null(attempt.at)
    return {"at": at, "status": attempt.status, "error": attempt.error, "seconds": attempt.seconds}


def _check(query: Mapping[str, str]) -> UUID | None:
    """The cursor of a query that has no fault. Raises Invalid."""
    faults: dict[str, list[str]] = {}
    for name, known in (("status", DELIVERY_STATUSES), ("type", EVENT_TYPES)):
        if query.get(name, known[0]) not in known:
            faults[name] = [f"Must be one of {', '.join(known)}"]
    for name in ("job", "subscription", "cursor"):
        if name in query and find_id(query[name]) is None:
            faults[name] = ["Must be an id, whole" if name != "cursor" else "Not a cursor of this list"]
    if faults:
        raise Invalid(details=faults)
    return find_id(query.get("cursor"))
