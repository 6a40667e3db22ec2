"""What a reader of events may ask for, read from its request. Every fault is told at once, by the parameter's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from app.errors import Invalid
from app.models.events import EVENT_TYPES
from app.paging import read_limit

LATEST: Final = "latest"
"""In place of a cursor: from now on."""

DEFAULT_LIMIT: Final = 100
LARGEST_LIMIT: Final = 1000
LONGEST_WAIT_SECONDS: Final = 60

KINDS: Final = frozenset(known.partition(".")[0] for known in EVENT_TYPES)
"""What may stand before a `.*`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedQuery:
    """The parameters of a feed, checked. With `after` None it begins at the oldest event, or with `latest` now."""

    after: int | None = None
    latest: bool = False
    types: tuple[str, ...] | None = None
    limit: int = DEFAULT_LIMIT
    wait_seconds: float = 0

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> FeedQuery:
        """Read the query string; raise Invalid with every fault that was found. Unknown parameters are left alone."""
        faults: dict[str, list[str]] = {}
        after = _read_cursor(query.get("after"), "after", faults)
        types = _read_types(query.get("types"), faults)
        limit = read_limit(query, faults, default=DEFAULT_LIMIT, largest=LARGEST_LIMIT)
        wait_seconds = _read_seconds(query.get("wait", "0"), faults)
        if faults:
            raise Invalid(details=faults)
        return cls(
            after=after, latest=query.get("after") == LATEST, types=types, limit=limit, wait_seconds=wait_seconds
        )


@dataclass(frozen=True, slots=True)
class StreamQuery:
    """The parameters of a stream, checked. With `after` None it begins now."""

    after: int | None
    types: tuple[str, ...] | None

    @classmethod
    def parse(cls, request: Request) -> StreamQuery:
        """Read the request; raise Invalid with every fault. A browser that resumes repeats the first address, `after`
        included, and adds how far it came by then: the header goes first.
        """
        faults: dict[str, list[str]] = {}
        resumed = request.headers.get("last-event-id")
        if resumed:
            after = _read_cursor(resumed, "Last-Event-ID", faults)
        else:
            after = _read_cursor(request.query_params.get("after"), "after", faults)
        types = _read_types(request.query_params.get("types"), faults)
        if faults:
            raise Invalid(details=faults)
        return cls(after, types)


def _read_cursor(text: str | None, name: str, faults: dict[str, list[str]]) -> int | None:
    if text is None or text == LATEST:
        return None
    if not _is_number(text):
        faults[name] = ["Expected the number of an event, or a nextCursor"]
        return None
    return int(text)


def _read_types(text: str | None, faults: dict[str, list[str]]) -> tuple[str, ...] | None:
    """The types that match these patterns; None stands for all of them."""
    if text is None:
        return None
    patterns = [pattern.strip() for pattern in text.split(",")]
    if unknown := [pattern for pattern in patterns if not is_pattern(pattern)]:
        faults["types"] = [f"Neither a type of event nor a pattern such as job.*: {', '.join(unknown)[:200]}"]
    if "*" in patterns:
        return None
    return tuple(known for known in EVENT_TYPES if known in patterns or f"{known.partition('.')[0]}.*" in patterns)


def is_pattern(text: str) -> bool:
    """Whether this is a type of event, or a pattern such as `job.*` or `*`."""
    word, _, rest = text.partition(".")
    return text == "*" or text in EVENT_TYPES or (rest == "*" and word in KINDS)


def _read_seconds(text: str, faults: dict[str, list[str]]) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= LONGEST_WAIT_SECONDS:
        faults["wait"] = [f"Expected seconds from 0 to {LONGEST_WAIT_SECONDS}"]
    return seconds


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20
