"""How far a list has been read, by an opaque cursor over (time, id) that is stable whatever is inserted meanwhile; and
how limits, times and ids are read that come with a request."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from app.clock import id_of
from app.errors import Invalid, NotFound

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row that was seen."""

    created_at: datetime
    id: UUID

    def __str__(self) -> str:
        microseconds = (self.created_at - _EPOCH) // timedelta(microseconds=1)
        return base64.urlsafe_b64encode(microseconds.to_bytes(8) + self.id.bytes).decode()

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The opposite of `str()`; raises Invalid for anything else."""
        try:
            raw = base64.b64decode(text, altchars=b"-_", validate=True)
            if len(raw) != 24:
                raise ValueError
            return cls(_EPOCH + timedelta(microseconds=int.from_bytes(raw[:8])), UUID(bytes=raw[8:]))
        except (ValueError, binascii.Error, OverflowError):
            raise Invalid(details={"cursor": ["Not a cursor of this list"]}) from None


def read_limit(query: Mapping[str, str], faults: dict[str, list[str]], *, default: int, largest: int) -> int:
    """The `limit` of a query; what is wrong with it goes to `faults`."""
    text = query.get("limit", str(default))
    if text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= largest:
        return int(text)
    faults["limit"] = [f"Expected an integer from 1 to {largest}"]
    return default


def read_time(value: Any, name: str, faults: dict[str, list[str]]) -> datetime | None:
    """A time that was given in ISO 8601, by UTC where it names no zone; what is wrong with it goes to `faults`."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        faults[name] = ["Expected a time such as 2026-03-01T12:00:00Z"]
        return None


def find_id(text: str | None) -> UUID | None:
    """The id that a text is, None where it is none."""
    try:
        return id_of(text) if text is not None else None
    except ValueError:
        return None


def parse_id(text: str, what: str) -> UUID:
    """The id of something; a text that is none is the id of nothing there is: NotFound."""
    found = find_id(text)
    if found is None:
        raise NotFound(f"{what} not found")
    return found
