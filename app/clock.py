"""The time, handed down so that tests can move it, and ids, which tell when they were made. All times are aware and in
UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

import uuid_utils
from asyncpg.pgproto import pgproto

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp(time: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and a `Z`, as Apiframe writes times."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_id() -> UUID:
    """A UUIDv7 of now."""
    return pgproto.UUID(uuid_utils.uuid7().bytes)


def id_of(text: str) -> UUID:
    """An id that was written down; raises ValueError for what is none.

    It is of the kind that the driver reads and writes ids by: a UUID, read and written ten times as fast.
    """
    return pgproto.UUID(text)


def first_id(time: datetime) -> UUID:
    """The smallest UUIDv7 that could be made in the millisecond of this time: those of before are below it (RFC 9562, 5.7).

    So a table without an index on its times is read up to a time by its primary key.
    """
    milliseconds = (time - _EPOCH) // timedelta(milliseconds=1)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | 0b10 << 62)


def time_of_id(made: UUID) -> datetime:
    """The opposite: in which millisecond a UUIDv7 was made."""
    return _EPOCH + timedelta(milliseconds=made.int >> 80)


def timestamp_or_null(time: datetime | None) -> str | None:
    """The same for a time that there may not be."""
    return None if time is None else timestamp(time)


class Clock(Protocol):
    """Something that knows what time it is."""

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class SettableClock:
    """A clock for tests: the machine's time, moved by as much as was asked for."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def advance(self, seconds: float) -> None:
        """Move the time on by so many seconds."""
        self.offset += timedelta(seconds=seconds)
