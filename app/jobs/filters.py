"""What a list of jobs is asked for, read from a query string. Every fault is told at once, by the parameter's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from app.clock import timestamp
from app.errors import Invalid
from app.models.jobs import STATUSES
from app.paging import Cursor, find_id, read_limit, read_time

ALL_TEAMS: Final = "*"

DEFAULT_LIMIT: Final = 20
LARGEST_LIMIT: Final = 100

METADATA: Final = "metadata."
MOST_METADATA: Final = 10
LONGEST_WORDS: Final = 500

_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "scope": ("user", "team"),
    "include_models": ("true", "false"),
    "overdue": ("true", "false"),
}
_TEXTS: Final = ("model", "operation", "team", "errorCode", "q")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Apiframe's parameters of `GET /v2/jobs` and ours, checked. `team` is a name, or `*` for all teams.

    `metadata` must be there under these keys, as text. `words` are looked for where a job has texts, and `search` is an id,
    ours or the upstream's. No `status` stands for any.
    """

    status: tuple[str, ...] = ()
    model: str | None = None
    operation: str | None = None
    team: str | None = None
    error_code: str | None = None
    overdue: bool = False
    created_after: datetime | None = None  # from then on
    created_before: datetime | None = None  # and before then
    metadata: Mapping[str, str] = field(default_factory=dict)
    words: str | None = None
    search: str | None = None
    limit: int = DEFAULT_LIMIT
    cursor: Cursor | None = None
    whole_team: bool = False
    include_models: bool = False

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> JobFilter:
        """Read the query string; raise Invalid with every fault that was found. Unknown parameters are left alone."""
        faults: dict[str, list[str]] = {}
        limit = read_limit(query, faults, default=DEFAULT_LIMIT, largest=LARGEST_LIMIT)
        status = _read_statuses(query.get("status"), faults)
        created_after = read_time(query.get("createdAfter"), "createdAfter", faults)
        created_before = read_time(query.get("createdBefore"), "createdBefore", faults)
        metadata = {name.removeprefix(METADATA): query[name] for name in query if name.startswith(METADATA)}
        words, search = _read_search(query, faults)
        faults |= _find_faults(query, metadata)
        if faults:
            raise Invalid(details=faults)
        return cls(
            status=status,
            model=query.get("model"),
            operation=query.get("operation"),
            team=query.get("team"),
            error_code=query.get("errorCode"),
            overdue=query.get("overdue") == "true",
            created_after=created_after,
            created_before=created_before,
            metadata=metadata,
            words=words,
            search=search,
            limit=limit,
            cursor=Cursor.parse(query["cursor"]) if "cursor" in query else None,
            whole_team=query.get("scope", "team" if "team" in query else "user") == "team",
            include_models=query.get("include_models") == "true",
        )

    def as_query(self) -> dict[str, str]:
        """The same filter as a query string, without `cursor` and `limit`."""
        given = {
            "status": ",".join(self.status) or None,
            "model": self.model,
            "operation": self.operation,
            "team": self.team,
            "errorCode": self.error_code,
            "overdue": "true" if self.overdue else None,
            "createdAfter": _moment(self.created_after),
            "createdBefore": _moment(self.created_before),
            **{f"{METADATA}{key}": value for key, value in self.metadata.items()},
            "q": self.words,
            "search": self.search,
            "scope": "team" if self.whole_team else "user",
            "include_models": "true" if self.include_models else None,
        }
        return {name: value for name, value in given.items() if value is not None}


def _moment(time: datetime | None) -> str | None:
    """A time with all its digits: milliseconds would move the border."""
    if time is None or time.microsecond % 1000 == 0:
        return None if time is None else timestamp(time)
    return time.isoformat()


def _read_statuses(text: str | None, faults: dict[str, list[str]]) -> tuple[str, ...]:
    """Some of the five, with commas between them."""
    if text is None:
        return ()
    wanted = {each.strip() for each in text.split(",")}
    if not wanted <= set(STATUSES):
        faults["status"] = [f"Must be one of {', '.join(STATUSES)}, or several with commas between them"]
    return tuple(status for status in STATUSES if status in wanted)


def _read_search(query: Mapping[str, str], faults: dict[str, list[str]]) -> tuple[str | None, str | None]:
    """The words and the id that are looked for. A `q` that is an id stands for that job, unless `search` names one."""
    search, asked = find_id(query.get("search")), query.get("q", "").strip()
    if "search" in query and search is None:
        faults["search"] = ["Expected a job id"]
    if search is None and (named := find_id(asked)) is not None:
        return None, str(named)
    return asked or None, None if search is None else str(search)


def _find_faults(query: Mapping[str, str], metadata: Mapping[str, str]) -> dict[str, list[str]]:
    """What is wrong with the parameters that are not read into anything."""
    faults: dict[str, list[str]] = {}
    for name, allowed in _CHOICES.items():
        if name in query and query[name] not in allowed:
            faults[name] = [f"Must be one of {', '.join(allowed)}"]
    if len(metadata) > MOST_METADATA:
        faults["metadata"] = [f"At most {MOST_METADATA} keys can be asked for"]
    if len(query.get("q", "")) > LONGEST_WORDS:
        faults["q"] = [f"At most {LONGEST_WORDS} characters"]
    texts = {name: query.get(name, "") for name in _TEXTS}
    texts |= {f"{METADATA}{key}": key + value for key, value in metadata.items()}
    for name, value in texts.items():
        if "\0" in value:
            faults[name.replace("\0", "")] = ["Must not contain a NUL character"]
    return faults
