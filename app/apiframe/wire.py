"""What the upstream says, read leniently: an unknown shape is kept or left out, never a reason to lose a message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from app.models.jobs import STATUSES, Status

Source = Literal["submit", "webhook", "poll", "framehook"]
"""By whose mouth: the submit answer, a webhook, a poll, or our own conclusion."""

LONGEST_INTEGER: Final = 4_000
"""Digits; Python refuses to read integers of more than 4,300 (sys.int_info)."""

_STATUS_OF_EVENT: dict[str, Status] = {"completed": "COMPLETED", "failed": "FAILED", "progress": "PROCESSING"}


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What the upstream says of one of our jobs. None means that nothing was said about that."""

    job_id: UUID
    source: Source
    at: datetime
    upstream_id: str | None = None
    status: Status | None = None
    progress: int | None = None
    result: str | None = None  # JSON text
    error: str | None = None
    error_code: str | None = None  # our own conclusions only
    credit_cost: int | None = None
    completed_at: datetime | None = None
    request_id: str | None = None
    asked_until: datetime | None = None  # polls only: when the claim of the poll ended, as it stood in the job


def read_json(body: bytes) -> Any:
    """Decode JSON that PostgreSQL can keep: NUL and lone surrogates become U+FFFD. Raises ValueError if it is none."""
    try:
        return storable(_decode(body)) if b"\\u" in body else _decode(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        # This one takes lone surrogates and numbers out of all range too; it raises ValueError for the rest.
        return json.loads(body, parse_int=_whole_number)


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST_INTEGER else float(digits)


def observe_payload(
    payload: Mapping[str, Any], *, job_id: UUID, source: Source, at: datetime, request_id: str | None = None
) -> Observation:
    """Read a webhook's body, a job object or a submit answer: they share their field names but for `id`/`jobId`."""
    status = _status(payload)
    return Observation(
        job_id=job_id,
        source=source,
        at=at,
        upstream_id=_text(payload.get("jobId")) or _text(payload.get("id")),
        status=status,
        progress=_progress(payload.get("progress")),
        result=_json(payload.get("result")),
        error=_error(payload.get("error")),
        credit_cost=_number(payload.get("creditCost")),
        completed_at=_time(payload.get("completedAt")),
        request_id=request_id,
    )


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of the account's jobs: those that say all there is to say of them, by their ids."""

    jobs: dict[str, Mapping[str, Any]]
    next_cursor: str | None
    oldest: datetime | None  # when the last job of the page was created


def read_page(payload: Mapping[str, Any]) -> JobPage:
    """Read an answer of `GET /v2/jobs`. A completed job without its result is left out: only a single poll tells it."""
    listed = payload.get("jobs")
    jobs = [job for job in listed if isinstance(job, dict)] if isinstance(listed, list) else []
    cursor = _text(payload.get("nextCursor")) if payload.get("hasMore", True) else None
    return JobPage(
        jobs={job["id"]: job for job in jobs if isinstance(job.get("id"), str) and _says_all(job)},
        next_cursor=cursor if jobs else None,
        oldest=_time(jobs[-1].get("createdAt")) if jobs else None,
    )


def _says_all(job: Mapping[str, Any]) -> bool:
    return _status(job) != "COMPLETED" or "result" in job


def event_of(payload: Mapping[str, Any]) -> str | None:
    """The event that a webhook says it is, cut to what a log line wants."""
    event = payload.get("event")
    return event[:50] if isinstance(event, str) else None


def cap_of(payload: Mapping[str, Any]) -> int | None:
    """How many jobs the account may run at once, where `GET /v2/me` says it."""
    team = payload.get("team")
    cap = team.get("maxConcurrentJobs") if isinstance(team, dict) else None
    return cap if isinstance(cap, int) and cap > 0 else None


def team_of(payload: Mapping[str, Any]) -> str | None:
    """The account's name in `GET /v2/me`."""
    team = payload.get("team")
    return _text(team.get("name")) if isinstance(team, dict) else None


def _status(payload: Mapping[str, Any]) -> Status | None:
    said = payload.get("status")
    known = said.upper() if isinstance(said, str) else None
    if known in STATUSES:
        return known
    event = payload.get("event")
    return _STATUS_OF_EVENT.get(event) if isinstance(event, str) and said is None else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _error(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return _json(value)


def _number(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return round(value) if -(2**31) <= value < 2**31 - 0.5 else None


def _progress(value: object) -> int | None:
    number = _number(value)
    return None if number is None else min(max(number, 0), 100)


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        utc = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    # The ends of what a datetime can hold are PostgreSQL's infinities to the driver.
    return utc if MINYEAR < utc.year < MAXYEAR else None


def storable(value: Any) -> Any:
    """The value with NUL and lone surrogates, which PostgreSQL cannot keep, replaced by U+FFFD."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return value
