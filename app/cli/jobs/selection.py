"""Which jobs are meant: the filter of `GET /v2/jobs` as options, and the jobs that it finds, page by page."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer

from app.cli.reach import Answered, Service
from app.errors import StartupError
from app.jobs.filters import ALL_TEAMS, LARGEST_LIMIT

_AGO: Final = re.compile(r"(\d{1,6}) ?([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

Text = str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A filter; what is None filters nothing."""

    status: Annotated[Text, typer.Option(help="Comma-separated statuses, such as FAILED,CANCELLED.")] = None
    team: Annotated[Text, typer.Option(help="The team's name; without it all that the key may see.")] = None
    operation: Annotated[Text, typer.Option(help="Such as images/generate.")] = None
    model: Annotated[Text, typer.Option(help="The model's name.")] = None
    error_code: Annotated[Text, typer.Option(help="Such as content_policy.")] = None
    since: Annotated[Text, typer.Option(help="Submitted from then on: a time (ISO 8601), or 30m, 12h, 7d ago.")] = None
    until: Annotated[Text, typer.Option(help="Submitted before that.")] = None
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="What `metadata` has; may be repeated.")
    ] = None
    q: Annotated[Text, typer.Option("--q", help="Words of the prompt, or an id.")] = None
    overdue: Annotated[bool, typer.Option("--overdue", help="Those that take longer than 99 in 100.")] = False

    @property
    def is_empty(self) -> bool:
        """Whether it leaves out nothing."""
        return not any(getattr(self, field.name) for field in fields(self))

    def query(self, now: datetime) -> dict[str, str]:
        """The parameters as the route has them, all but the team; raises StartupError for what cannot be read."""
        plain = {"status": self.status, "operation": self.operation, "model": self.model, "q": self.q}
        asked = {name: value for name, value in plain.items() if value is not None}
        if self.error_code is not None:
            asked["errorCode"] = self.error_code
        if self.overdue:
            asked["overdue"] = "true"
        for name, option, text in (("createdAfter", "--since", self.since), ("createdBefore", "--until", self.until)):
            if text is not None:
                asked[name] = read_moment(text, option, now).isoformat()
        for pair in self.metadata or ():
            key, equals, value = pair.partition("=")
            if not (key and equals):
                raise StartupError(f"--metadata must be KEY=VALUE, not {pair}")
            asked[f"metadata.{key}"] = value
        return asked


def read_moment(text: str, option: str, now: datetime) -> datetime:
    """A time in ISO 8601, in UTC where it names no zone, or how long ago it was; raises StartupError."""
    match = _AGO.fullmatch(text.strip())
    try:
        time = now - timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise StartupError(f"{option} must be a time such as 2026-11-25T09:30:00Z, or 12h, not {text}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


async def settle(service: Service, wanted: Wanted) -> dict[str, str]:
    """The parameters that find what is wanted, of one team or of all that the caller may see."""
    asked = wanted.query(datetime.now(UTC))
    if wanted.team is not None:
        return asked | {"team": wanted.team}
    if not service.as_admin:
        try:
            await service.ask("GET", "/v2/jobs", query={"team": ALL_TEAMS, "limit": "1"})
        except Answered as answered:
            if answered.status != 403:
                raise
            return asked | {"scope": "team"}
    return asked | {"team": ALL_TEAMS}


async def find_jobs(service: Service, wanted: Wanted, *, most: int | None = None) -> AsyncIterator[dict[str, Any]]:
    """The jobs that are wanted, newest first, at most so many."""
    query, left = await settle(service, wanted), most
    while left is None or left > 0:
        query["limit"] = str(LARGEST_LIMIT if left is None else min(left, LARGEST_LIMIT))
        page = await service.ask("GET", "/v2/jobs", query=query)
        for job in page["jobs"]:
            yield job
        if not page["hasMore"]:
            return
        query["cursor"] = page["nextCursor"]
        left = None if left is None else left - len(page["jobs"])


async def find_ids(service: Service, wanted: Wanted) -> AsyncIterator[str]:
    """The ids of all jobs that are wanted, newest first, read as one export."""
    query = await settle(service, wanted) | {"format": "jsonl"}
    async with service.open("GET", "/v2/jobs", query=query) as response:
        async for line in response.aiter_lines():
            yield json.loads(line)["id"]
