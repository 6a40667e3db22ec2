"""How far a list has been read: an opaque cursor over (time, id), stable whatever is inserted meanwhile."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.errors import Invalid

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
