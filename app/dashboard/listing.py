"""What pages with a list have in common: filters in the URL, and the way on to older entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from app.dashboard.visits import Visit


@dataclass(frozen=True, slots=True)
class Listing:
    """What was asked of a list. `asked` holds only what was filled in, `filters` every filter there is."""

    asked: Mapping[str, str]
    filters: Mapping[str, str]

    @classmethod
    def of(cls, visit: Visit, names: Sequence[str]) -> Listing:
        """Read the URL of a visit."""
        given = {name: text.strip() for name, text in visit.request.query_params.items() if text.strip()}
        asked = {name: given[name] for name in (*names, "cursor") if name in given}
        return cls(asked, {name: asked.get(name, "") for name in names})

    @property
    def is_narrowed(self) -> bool:
        """Whether any filter is set."""
        return any(self.filters.values())

    def url(self, **changes: str) -> str:
        """The first page of the same list with other filters; an empty text takes one away."""
        kept = {name: text for name, text in {**self.filters, **changes}.items() if text}
        return f"?{urlencode(kept)}" if kept else "?"

    def links(self, next_cursor: str | None) -> dict[str, Any]:
        """For a template: the filters, and where the first and the next page are."""
        older = self.url(cursor=next_cursor) if next_cursor else None
        newest = self.url() if "cursor" in self.asked else None
        return {"list": self, "filters": self.filters, "newest": newest, "older": older}
