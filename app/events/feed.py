"""Read the event log in order. A cursor is the number up to which a reader has seen everything that concerns it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth import Caller
from app.clock import timestamp
from app.context import Context
from app.db import AnyRow
from app.errors import Gone, Invalid, Unavailable
from app.events import queries
from app.events.asking import FeedQuery
from app.exports import PAGE
from app.notify import wait

LOOK_AGAIN_SECONDS: Final = 5.0
"""How long a waiting reader relies on nudges before it looks by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events concern a reader. `types` are patterns such as `job.*`; None stands for any. `live`: those of test keys
    do not.
    """

    team_id: UUID | None = None
    job_id: UUID | None = None
    types: tuple[str, ...] | None = None
    live: bool = False

    @classmethod
    def of(cls, caller: Caller, types: tuple[str, ...] | None, *, job_id: UUID | None = None) -> EventFilter:
        """What concerns a caller: its team's, or where it sees all teams, all that is not done with test keys."""
        everybody = caller.only_team is None and job_id is None
        return cls(team_id=caller.only_team, job_id=job_id, types=types, live=everybody)


@dataclass(frozen=True, slots=True)
class Page:
    """Events in order, and the cursor that has passed them and all others before it that do not concern the reader."""

    events: Sequence[AnyRow]
    cursor: int
    more: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor that was found good, and the log's head by then."""

    cursor: int
    head: int


async def find_place(connection: AsyncConnection, after: int | None) -> Place:
    """Where a cursor stands in the log; None stands for the oldest that is kept.

    Raises Gone for a cursor older than that, Invalid for one from the future.
    """
    log = await queries.read_head(connection)
    start = log.forgotten_through if after is None else after
    if start < log.forgotten_through:
        raise Gone("Events after this cursor are not kept any more", oldestCursor=str(log.forgotten_through))
    if start > log.head:
        raise Invalid(details={"after": ["No event has this number yet"]})
    return Place(start, log.head)


async def read(connection: AsyncConnection, after: int | None, asked: EventFilter, *, limit: int) -> Page:
    """The events after a cursor, or with None from the oldest that is kept. Raises as `find_place` does.

    The head is read first, in a statement of its own. What is at or below it was committed by then, since the log's order
    is commit order, and so the second statement sees all of it.
    """
    place = await find_place(connection, after)
    if place.cursor == place.head:
        return Page([], place.head, more=False)
    rows = await queries.list_events(
        connection,
        after=place.cursor,
        through=place.head,
        types=asked.types,
        team_id=asked.team_id,
        job_id=asked.job_id,
        live=asked.live,
        limit=limit + 1,
    )
    if len(rows) > limit:
        return Page(rows[:limit], rows[limit - 1].sequence, more=True)
    return Page(rows, place.head, more=False)


async def poll(
    ctx: Context, identify: Callable[[], Awaitable[Caller]], asked: FeedQuery, *, job_id: UUID | None = None
) -> dict[str, Any]:
    """A page of what the caller may see; with `wait_seconds`, as soon as there is something on it or the time is over.

    The caller is identified anew after every wait, so that revoking its key ends it. No connection is held meanwhile.
    Raises as `find_place` does, and whatever `identify` raises.
    """
    end = asyncio.get_running_loop().time() + asked.wait_seconds
    cursor = asked.after
    with ctx.notify.listening("events") as nudged:
        while True:
            nudged.clear()
            caller = await identify()
            wanted = EventFilter.of(caller, asked.types, job_id=job_id)
            async with ctx.db.reading() as connection:
                if cursor is None and asked.latest:
                    page = Page([], (await find_place(connection, None)).head, more=False)
                else:
                    page = await read(connection, cursor, wanted, limit=asked.limit)
            cursor = page.cursor
            left = end - asyncio.get_running_loop().time()
            if page.events or left <= 0 or ctx.closing.is_set():
                return _shape_page(page)
            await wait(nudged, min(left, LOOK_AGAIN_SECONDS))


async def list_pages(
    ctx: Context, identify: Callable[[], Awaitable[Caller]], asked: FeedQuery, *, most: int | None
) -> AsyncGenerator[list[dict[str, Any]], None]:
    """The events that the caller may see up to the log's head as it is now, with their jobs and teams, `most` at most.

    The caller is identified anew for each page, so that revoking its key ends it. Raises as `find_place` does, and
    Unavailable where this process is to stop.
    """
    async with ctx.db.reading() as connection:
        place = await find_place(connection, asked.after)
    cursor, left = place.head if asked.latest else place.cursor, most
    while cursor < place.head and (left is None or left > 0):
        wanted = EventFilter.of(await identify(), asked.types)
        if ctx.closing.is_set():
            raise Unavailable("This process is about to stop")
        async with ctx.db.reading() as connection:
            page = await read(connection, cursor, wanted, limit=PAGE if left is None else min(PAGE, left))
        events = [row for row in page.events if row.sequence <= place.head]
        yield [shape_event(row) | {"jobId": row.job_id, "teamId": row.team_id} for row in events]
        cursor = page.cursor
        left = None if left is None else left - len(events)


COLUMNS: Final = ("sequence", "id", "type", "timestamp", "jobId", "teamId", "data")
"""Of an exported event."""


def _shape_page(page: Page) -> dict[str, Any]:
    return {
        "events": [shape_event(row) for row in page.events],
        "nextCursor": str(page.cursor),
        "hasMore": page.more,
    }


def shape_event(row: AnyRow) -> dict[str, Any]:
    """The event object, the same in the feed, in streams and in deliveries."""
    return {
        "id": row.id,
        "type": row.type,
        "timestamp": timestamp(row.at),
        "sequence": row.sequence,
        "data": msgspec.Raw(row.data.encode()),
    }
