"""Read the event log in order. A cursor is the number up to which a reader has seen everything that concerns it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import timestamp
from app.db import AnyRow
from app.errors import Gone, Invalid
from app.events import queries

LARGEST_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events concern a reader. `types` are patterns such as `job.*`; None stands for any."""

    team_id: UUID | None = None
    job_id: UUID | None = None
    types: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Events in order, and the cursor that has passed them and all others before it that do not concern the reader."""

    events: Sequence[AnyRow]
    cursor: int
    more: bool


async def read(connection: AsyncConnection, after: int | None, asked: EventFilter, *, limit: int) -> Page:
    """The events after a cursor, or with None from the oldest that is kept.

    Raises Gone for a cursor older than that, Invalid for one from the future. The head is read first, in a statement of its
    own. What is at or below it was committed by then, since the log's order is commit order, and so the second statement
    sees all of it.
    """
    log = await queries.read_head(connection)
    start = log.forgotten_through if after is None else after
    if start < log.forgotten_through:
        raise Gone("Events after this cursor are not kept any more", oldestCursor=str(log.forgotten_through))
    if start > log.head:
        raise Invalid(details={"after": ["No event has this number yet"]})
    rows = await queries.list_events(
        connection,
        after=start,
        through=log.head,
        types=asked.types,
        team_id=asked.team_id,
        job_id=asked.job_id,
        limit=limit + 1,
    )
    if len(rows) > limit:
        return Page(rows[:limit], rows[limit - 1].sequence, more=True)
    return Page(rows, log.head, more=False)


def shape_event(row: AnyRow) -> dict[str, Any]:
    """The event object, the same in the feed, in streams and in deliveries."""
    return {
        "id": row.id,
        "type": row.type,
        "timestamp": timestamp(row.at),
        "sequence": row.sequence,
        "data": msgspec.Raw(row.data.encode()),
    }
