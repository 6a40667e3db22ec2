"""The newest events, read from the log once for all who follow it in this process.

Nobody has a buffer of its own: a client holds a cursor, and reads from here what is newer, or from the database what is
older than is kept here. So a client that is slow costs nothing but its own time.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

import msgspec
import structlog

from app.context import Context
from app.db import OUTAGES, AnyRow
from app.errors import Gone, Invalid
from app.events.feed import EventFilter, find_place, read, shape_event
from app.notify import wait

log = structlog.get_logger()

KEPT: Final = 2_000
KEPT_BYTES: Final = 16 * 1024 * 1024
"""So many events are kept, of so many bytes at most."""

BEGUN_BEFORE: Final = 1_000
"""The tail begins so many numbers before the head: after a restart all clients come back, each a little behind it."""

PAGE: Final = 200
CATCH_UP_PAGE: Final = 50
CATCHING_UP: Final = 3
"""So many clients read from the database at once, however many were cut off and come back."""

RECENT_PAGES: Final = 16

LOOK_SECONDS: Final = 2.0
"""How long nudges are relied on before the log is looked at without one."""

CLOSING_SECONDS: Final = 1.0
"""How long clients may take to read what is on its way to them when the process stops."""

_NOWHERE: Final = -1


@dataclass(frozen=True, slots=True)
class Told:
    """An event as it goes to clients, encoded once."""

    sequence: int
    type: str
    team_id: UUID
    job_id: UUID | None
    is_test: bool
    wire: bytes


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the log without gaps: what it holds up to a number, of whatever was asked for.

    `through` is None where the cursor that it was to begin at is no good any more.
    """

    events: Sequence[Told]
    through: int | None

    def after(self, cursor: int) -> Iterator[Told]:
        """What comes after a number, in order."""
        for place in range(bisect_right(self.events, cursor, key=_sequence), len(self.events)):
            yield self.events[place]


class Follower(Protocol):
    """Somebody who follows the log."""

    def wake(self) -> None:
        """There may be something new."""

    def cut(self) -> None:
        """End without waiting for the other side."""


class Tail:
    """Follows the log while anybody follows it here. Made once per process."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._events: list[Told] = []
        self._bytes = 0
        self._start = self._head = _NOWHERE  # everything between the two is kept
        self._followers: set[Follower] = set()
        self._following: asyncio.Task[None] | None = None
        self._deserted = asyncio.Event()
        self._recent: deque[tuple[int, EventFilter, Stretch]] = deque(maxlen=RECENT_PAGES)
        self._turns = asyncio.Semaphore(CATCHING_UP)

    @contextmanager
    def followed(self, follower: Follower) -> Iterator[None]:
        """Wake this follower whenever there is something new, for so long."""
        self._followers.add(follower)
        self._deserted.clear()
        if self._following is None or self._following.done():
            self._following = self._ctx.start(self._follow())
        try:
            yield
        finally:
            self._followers.discard(follower)
            if not self._followers:
                self._deserted.set()

    def newest(self, cursor: int) -> Stretch | None:
        """What is kept here, if it begins at this cursor or before; to be read before anything else is awaited."""
        return Stretch(self._events, self._head) if self._start <= cursor <= self._head else None

    async def find_cursor(self, after: int | None) -> int:
        """Where a client begins: at its own cursor, or with None now. Raises as `feed.find_place` does."""
        if after is not None and self.newest(after):
            return after
        async with self._turns, self._ctx.db.reading() as connection:
            place = await find_place(connection, after)
        return place.head if after is None else place.cursor

    async def read_older(self, cursor: int, asked: EventFilter, is_wanted: Callable[[], bool]) -> Stretch | None:
        """What the database has after a cursor. None where it is away, or nobody wants it any more by then."""
        async with self._turns:
            if not is_wanted():
                return None
            # Clients that come back at once were cut off at once: they read the same pages.
            for begin, read_for, stretch in self._recent:
                if read_for == asked and begin <= cursor < (stretch.through or 0):
                    return stretch
            try:
                async with self._ctx.db.reading() as connection:
                    page = await read(connection, cursor, asked, limit=CATCH_UP_PAGE)
            except (Gone, Invalid):
                return Stretch((), None)
            except OUTAGES:
                return None  # the tail tells of it, once for all
        stretch = Stretch([encode(row) for row in page.events], page.cursor)
        self._recent.append((cursor, asked, stretch))
        return stretch

    async def _follow(self) -> None:
        with self._ctx.notify.listening("events") as nudged:
            while self._followers and not self._ctx.closing.is_set():
                nudged.clear()
                if not await self._look():
                    await wait(nudged, LOOK_SECONDS)
        self._forget()
        if self._ctx.closing.is_set():
            await self._let_go()

    async def _look(self) -> bool:
        """Read on; True where there may be more."""
        try:
            async with self._ctx.db.reading() as connection:
                if self._head == _NOWHERE:
                    place = await find_place(connection, None)
                    self._start = self._head = max(place.cursor, place.head - BEGUN_BEFORE)
                    return True
                page = await read(connection, self._head, EventFilter(), limit=PAGE)
        except (Gone, Invalid):
            # The process slept past retention, or the database was put back to an earlier state.
            self._forget()
            return False
        except OUTAGES as error:
            log.warning("stream.waits", error=str(error)[:200] or type(error).__name__)
            return False
        self._keep([encode(row) for row in page.events], page.cursor)
        return page.more

    def _keep(self, events: Sequence[Told], head: int) -> None:
        self._events += events
        self._bytes += sum(len(told.wire) for told in events)
        self._head = head
        excess = max(len(self._events) - KEPT, 0)
        over = self._bytes - sum(len(told.wire) for told in self._events[:excess]) - KEPT_BYTES
        while over > 0:
            over -= len(self._events[excess].wire)
            excess += 1
        if excess:
            self._start = self._events[excess - 1].sequence
            self._bytes -= sum(len(told.wire) for told in self._events[:excess])
            del self._events[:excess]
        if events:
            self._wake_all()

    def _forget(self) -> None:
        self._events.clear()
        self._bytes = 0
        self._start = self._head = _NOWHERE
        self._recent.clear()

    def _wake_all(self) -> None:
        for follower in self._followers:
            follower.wake()

    async def _let_go(self) -> None:
        """End every stream, those of clients that do not read too: nothing holds the process up when it stops."""
        self._wake_all()
        await wait(self._deserted, CLOSING_SECONDS)
        for follower in tuple(self._followers):
            follower.cut()


def encode(row: AnyRow) -> Told:
    """An event as the body of a stream has it. JSON of ours has no line breaks, which would end the field."""
    data = msgspec.json.encode(shape_event(row))
    wire = b"id: %d\nevent: %s\ndata: %s\n\n" % (row.sequence, row.type.encode(), data)
    return Told(row.sequence, row.type, row.team_id, row.job_id, row.is_test, wire)


def _sequence(told: Told) -> int:
    return told.sequence
