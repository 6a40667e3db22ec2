"""Which bytes of a file are asked for (RFC 9110, 13 and 14). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `start` up to but without `end`, and the status of the answer that has them.

    304 stands for what the caller has already, 416 for what the file does not have: both without a byte.
    """

    status: int
    start: int
    end: int


def part_of(headers: Mapping[str, str], size: int, etag: str) -> Part:
    """What a request gets of a file of so many bytes. `headers` are looked up in lower case.

    Several ranges at once are answered with the whole file, as is one that cannot be read: both are allowed.
    """
    if _names(headers.get("if-none-match", ""), etag):
        return Part(304, 0, 0)
    whole = Part(200, 0, size)
    match = _RANGE.fullmatch(headers.get("range", "").replace(" ", "").lower())
    if match is None or headers.get("if-range", etag) != etag:
        return whole
    first, last = match.groups()
    if not first and not last:
        return whole
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return whole  # the header is not valid
    return Part(206, start, end) if start < end else Part(416, 0, 0)


def _names(given: str, etag: str) -> bool:
    """Whether `If-None-Match` names this tag; the weak comparison is the right one here (RFC 9110, 13.1.2)."""
    return given.strip() == "*" or etag in (each.strip().removeprefix("W/") for each in given.split(","))
