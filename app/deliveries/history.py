"""What became of deliveries, shown to their subscribers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from app.auth import Caller
from app.clock import timestamp, timestamp_or_null
from app.context import Context
from app.db import AnyRow
from app.deliveries.queries import history
from app.errors import Invalid, NotFound
from app.models.deliveries import DELIVERY_STATUSES
from app.paging import find_id, read_limit

DEFAULT_LIMIT: Final = 20
LARGEST_LIMIT: Final = 100

CLOCKS_DIFFER: Final = timedelta(days=1)
"""How much earlier than its delivery an attempt is looked for: far more than the clocks of processes may differ."""


async def show_deliveries(
    ctx: Context, caller: Caller, query: Mapping[str, str], *, subscription_id: UUID | None, status: str | None = None
) -> dict[str, Any]:
    """A page of deliveries, newest first, that the caller may see. Raises Invalid."""
    limit, before, wanted = _read(query)
    async with ctx.db.reading() as connection:
        rows = await history.list_deliveries(
            connection,
            team_id=caller.only_team,
            subscription_id=subscription_id,
            status=status or wanted,
            before=before,
            limit=limit + 1,
        )
    page, more = rows[:limit], len(rows) > limit
    return {
        "deliveries": [shape_delivery(row) for row in page],
        "nextCursor": str(page[-1].id) if more else None,
        "hasMore": more,
    }


async def show_delivery(ctx: Context, caller: Caller, delivery_id: UUID) -> dict[str, Any]:
    """A delivery that the caller may see, with its attempts. Raises NotFound."""
    async with ctx.db.reading() as connection:
        row = await history.find_delivery(connection, caller.only_team, delivery_id)
        if row is None:
            raise NotFound("Delivery not found")
        attempts = await history.list_attempts(connection, delivery_id, since=row.created_at - CLOCKS_DIFFER)
    return shape_delivery(row) | {"attempts": [shape_attempt(attempt) for attempt in attempts]}


def shape_delivery(row: AnyRow) -> dict[str, Any]:
    """The delivery object. `nextAttemptAt` is null while an attempt is being made, and once it is over."""
    return {
        "id": row.id,
        "eventId": row.event_id,
        "eventType": row.event_type,
        "subscriptionId": row.subscription_id,
        "callbackUrl": row.callback_url,
        "jobId": row.job_id,
        "status": row.status,
        "reason": row.reason,
        "attemptCount": row.attempt_count,
        "createdAt": timestamp(row.created_at),
        "nextAttemptAt": None if row.is_leased else timestamp_or_null(row.due_at),
        "endedAt": timestamp_or_null(row.ended_at),
    }


def shape_attempt(row: AnyRow) -> dict[str, Any]:
    """The attempt object: what was sent, without secrets, and the beginning of what was answered."""
    return {
        "number": row.number,
        "at": timestamp(row.at),
        "seconds": row.seconds,
        "status": row.status,
        "error": row.error,
        "address": row.address,
        "requestHeaders": row.request_headers,
        "responseBody": bytes(row.response_body).decode(errors="replace"),
        "nextAttemptAt": timestamp_or_null(row.next_at),
    }


def _read(query: Mapping[str, str]) -> tuple[int, UUID | None, str | None]:
    faults: dict[str, list[str]] = {}
    limit = read_limit(query, faults, default=DEFAULT_LIMIT, largest=LARGEST_LIMIT)
    status = query.get("status")
    if status is not None and status not in DELIVERY_STATUSES:
        faults["status"] = [f"Must be one of {', '.join(DELIVERY_STATUSES)}"]
    before = find_id(query.get("cursor"))
    if "cursor" in query and before is None:
        faults["cursor"] = ["Not a cursor of this list"]
    if faults:
        raise Invalid(details=faults)
    return limit, before, status
