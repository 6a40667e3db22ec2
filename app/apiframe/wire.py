"""What the upstream says, read leniently: an unknown shape is kept or left out, never a reason to lose a message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from app.models import STATUSES, Status

Source = Literal["submit", "webhook", "poll", "framehook"]
"""By whose mouth: the submit answer, a webhook, a poll, or our own conclusion."""

_STATUS_OF_EVENT: dict[str, Status] = {"completed": "COMPLETED", "failed": "FAILED", "progress": "PROCESSING"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
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


def read_json(body: bytes) -> Any:
    """Decode JSON that PostgreSQL can keep: NUL and lone surrogates become U+FFFD. Raises ValueError if it is none."""
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except msgspec.DecodeError:
        value = json.loads(body)  # takes the lone surrogates that msgspec refuses; raises ValueError for the rest
        return storable(value)
    return storable(value) if b"\\u0000" in body else value


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


def _status(payload: Mapping[str, Any]) -> Status | None:
    said = payload.get("status")
    for known in STATUSES:
        if isinstance(said, str) and said.upper() == known:
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
    return round(value) if abs(value) < 2**31 else None


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
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def storable(value: Any) -> Any:
    """The value with NUL and lone surrogates, which PostgreSQL cannot keep, replaced by U+FFFD."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return value
