"""Headers that others wrote: which of them go out with our calls, and what those of an answer say. All of it is pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

LONGEST_HEADER: Final = 4096

FORBIDDEN_HEADERS: Final = frozenset(
    {
        *("connection", "content-encoding", "content-length", "content-type", "expect", "host", "http2-settings"),
        *("keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    }
)
"""In lower case: what frames a request or says what is in it."""

SIGNING_HEADERS: Final = ("webhook-", "x-webhook-")
"""What the names of headers begin with that only we set, since receivers trust them."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_MEDIA_TYPE: Final = re.compile(rf"({_TOKEN.pattern}/{_TOKEN.pattern})[ \t]*(?:;.*)?", re.DOTALL)
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(?:([0-9]{1,18})|\*)", re.IGNORECASE)


class ContentRange(NamedTuple):
    """Which bytes of a whole an answer holds: the first, the last, and how many the whole has, if that is known."""

    start: int
    end: int
    total: int | None


def header_fault(name: str, value: str) -> str | None:
    """Why a header that others wrote must not be sent with our calls; None: it may be."""
    if len(name) > LONGEST_HEADER or len(value) > LONGEST_HEADER:
        return f"Must have at most {LONGEST_HEADER:,} characters"
    if not _TOKEN.fullmatch(name):
        return "Must have a name of letters, digits and hyphens"
    if name.lower() in FORBIDDEN_HEADERS or name.lower().startswith(SIGNING_HEADERS):
        return f"Must not be {name}, which this service sets itself"
    if not _VALUE.fullmatch(value):
        return "Must have a value of printable ASCII characters, without a space at either end"
    return None


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Read `Retry-After` (RFC 9110, 10.2.3), seconds or a date; None: it was not sent or cannot be read. Never negative."""
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max((date - now).total_seconds(), 0.0)


def printable(value: str | None) -> str | None:
    """A header's value that can be kept, and sent back; None: it was not sent or has characters that no header should."""
    return value if _VALUE.fullmatch(value or "") else None


def media_type(value: str | None) -> str | None:
    """Read `Content-Type` (RFC 9110, 8.3), in lower case and without parameters; None: it was not sent or is no type."""
    match = _MEDIA_TYPE.fullmatch(value or "")
    return match and match[1].lower()


def accepts_ranges(value: str | None) -> bool:
    """Read `Accept-Ranges` (RFC 9110, 14.3): whether some bytes can be asked for. Unsaid, they may be all the same."""
    return "bytes" in [unit.strip().lower() for unit in (value or "").split(",")]


def content_range(value: str | None) -> ContentRange | None:
    """Read `Content-Range` (RFC 9110, 14.4); None: it was not sent, holds no bytes or contradicts itself."""
    match = _RANGE.fullmatch(value or "")
    if match is None:
        return None
    start, end, total = int(match[1]), int(match[2]), int(match[3]) if match[3] else None
    if start > end or (total is not None and end >= total):
        return None
    return ContentRange(start, end, total)
