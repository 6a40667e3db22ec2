"""How the webhook fields are spelled towards the upstream: guessed, remembered, and corrected by its free 400s. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

EVENTS: Final = ("progress", "completed", "failed")
FIELDS: Final = ("webhook_url", "webhookUrl")

_NAMES_URL: Final = re.compile(r"webhook_?url", re.IGNORECASE)
_NAMES_EVENTS: Final = re.compile(r"webhook_?events", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Spelling:
    """The field that carries our webhook URL, and whether `webhookEvents` goes with it. No field: poll-only."""

    field: str | None
    events: bool = True

    def __str__(self) -> str:
        if self.field is None:
            return "none"
        return self.field if self.events else f"{self.field}-events"

    @classmethod
    def parse(cls, text: str) -> Spelling:
        """The opposite of `str()`."""
        if text == "none":
            return cls(None, events=False)
        return cls(text.removesuffix("-events"), events=not text.endswith("-events"))

    def respelled(self, body: bytes, webhook_url: str | None) -> bytes:
        """The body with the webhook fields in this spelling; all other fields keep their bytes and their order."""
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        for name in (*FIELDS, "webhookEvents"):
            fields.pop(name, None)
        if self.field is not None and webhook_url is not None:
            fields[self.field] = msgspec.Raw(msgspec.json.encode(webhook_url))
            if self.events:
                fields["webhookEvents"] = msgspec.Raw(msgspec.json.encode(EVENTS))
        return msgspec.json.encode(fields)


POLL_ONLY: Final = Spelling(None, events=False)


def names_webhook_fields(refusal: Any) -> bool:
    """Whether a 400's body complains about what we added, which is our fault and not the caller's."""
    text = _all_text(refusal)
    return bool(_NAMES_URL.search(text) or _NAMES_EVENTS.search(text))


def next_spelling(trail: tuple[Spelling, ...], refusal: Any) -> Spelling:
    """What to try after the last of `trail` met this 400: the other name, then without events, at last without webhook.

    No spelling is tried twice for one job, so the walk ends.
    """
    last = trail[-1]
    if last.field is None:
        return POLL_ONLY
    if _NAMES_URL.search(_all_text(refusal)):
        candidate = Spelling(FIELDS[1 - FIELDS.index(last.field)], last.events)
    else:
        candidate = Spelling(last.field, events=False)
    return POLL_ONLY if candidate in trail else candidate


def documented_field(document: Any) -> str | None:
    """The spelling that an upstream's OpenAPI document uses, or None if it names neither or both."""
    names = {key for key in _keys(document) if key in FIELDS}
    return names.pop() if len(names) == 1 else None


def _all_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)
