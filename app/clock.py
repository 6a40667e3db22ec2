"""The time, handed down so that tests can move it. All times are aware and in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol


def timestamp(time: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and a `Z`, as Apiframe writes times."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
