"""What operators see of the webhooks that came: which were believed and applied, and what they said, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import msgspec

from app.auth import Caller
from app.clock import time_of_id, timestamp
from app.context import Context
from app.db import AnyRow
from app.errors import Invalid, NotFound
from app.paging import find_id
from app.webhooks import queries
from app.webhooks.queries import Sought
from app.webhooks.receive import APPLIED

FILTERS: Final = ("signature", "applied", "outcome", "job")

SIGNATURES: Final = ("valid", "wrong", "absent")

OUTCOMES: Final = (*APPLIED, "other job", "names no job", "unreadable", "hint")

BUDGET: Final = 10_000
"""So many receipts are looked at for one page."""


async def find_receipts(ctx: Context, caller: Caller, query: Mapping[str, str], *, limit: int) -> dict[str, Any]:
    """A page of receipts, newest first, by any of `FILTERS`. Raises Forbidden, Invalid.

    Where looking ended before all were found, `lookedTo` is a time, and `nextCursor` goes on from there.
    """
    caller.must("ops")
    sought, before = _read(query)
    async with ctx.db.reading() as connection:
        rows, reach = await queries.list_receipts(connection, sought, before=before, limit=limit + 1, budget=BUDGET)
    page, more = rows[:limit], len(rows) > limit
    after = page[-1].id if more else reach
    return {
        "receipts": [_shape(row) for row in page],
        "nextCursor": str(after) if after else None,
        "lookedTo": timestamp(time_of_id(reach)) if reach else None,
    }


async def find_latest(ctx: Context, caller: Caller) -> dict[str, Any]:
    """The last receipt, and the last one that was applied; None where there is none among those looked at."""
    latest = {}
    for name, query in (("received", {}), ("applied", {"applied": "yes"})):
        found = (await find_receipts(ctx, caller, query, limit=1))["receipts"]
        latest[name] = found[0] if found else None
    return latest


async def show_receipt(ctx: Context, caller: Caller, receipt_id: UUID) -> dict[str, Any]:
    """A receipt with its headers and raw body, both None once they are past retention. Raises Forbidden, NotFound."""
    caller.must("ops")
    async with ctx.db.reading() as connection:
        row = await queries.find_receipt(connection, receipt_id)
    if row is None:
        raise NotFound("Webhook not found")
    return _shape(row) | {
        "digest": bytes(row.digest).hex(),
        "headers": None if row.headers is None else msgspec.json.decode(row.headers),
        "body": None if row.body is None else bytes(row.body),
    }


def _shape(row: AnyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "jobId": row.job_id,
        "receivedAt": timestamp(row.received_at),
        "signature": row.signature,
        "event": row.event,
        "applied": row.applied,
        "outcome": row.outcome,
    }


def _read(query: Mapping[str, str]) -> tuple[Sought, UUID | None]:
    faults: dict[str, list[str]] = {}
    for name, known in (("signature", SIGNATURES), ("applied", ("yes", "no"))):
        if query.get(name, known[0]) not in known:
            faults[name] = [f"Must be one of {', '.join(known)}"]
    for name, what in (("job", "Must be an id, whole"), ("cursor", "Not a cursor of this list")):
        if name in query and find_id(query[name]) is None:
            faults[name] = [what]
    if "\0" in query.get("outcome", ""):
        faults["outcome"] = ["Must not contain a NUL character"]
    if faults:
        raise Invalid(details=faults)
    applied = {"yes": True, "no": False}.get(query.get("applied", ""))
    sought = Sought(
        job_id=find_id(query.get("job")),
        signature=query.get("signature"),
        applied=applied,
        outcome=query.get("outcome"),
    )
    return sought, find_id(query.get("cursor"))
