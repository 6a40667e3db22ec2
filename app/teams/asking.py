"""What may be asked of teams and keys, read from the body. Every fault is told at once, by the field's name. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from app.config import MODALITIES
from app.errors import Invalid
from app.models.teams import SCOPES, TEST_SCOPES
from app.paging import read_time

LONGEST_NAME: Final = 100
MOST_NAMES: Final = 500
HIGHEST: Final = 1_000_000_000
LONGEST_GRACE_SECONDS: Final = 30 * 24 * 3600
DEFAULT_GRACE_SECONDS: Final = 24 * 3600

LONGEST_LIFE: Final = timedelta(days=36_500)

Fault = str | None
Check = Callable[[Any], Fault]

COLUMN_OF: Final[Mapping[str, str]] = {
    "requestsPerMinute": "requests_per_minute",
    "queuedLimit": "queued_limit",
    "inFlightLimit": "in_flight_limit",
    "allowedOperations": "allowed_operations",
    "allowedModels": "allowed_models",
    "monthlyCredits": "monthly_credits",
    "archivedModalities": "archived_modalities",
}
"""The limits of a team, each of which null takes away, and where they are kept."""


def read_new_team(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a new team; raise Invalid with every fault."""
    _check(body, {"name": _team_name, **_LIMITS}, required=("name",))
    return dict(body)


def read_team_changes(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a team that are to change; raise Invalid with every fault. Names are for good."""
    _check(body, {"name": lambda _: "A team's name cannot be changed", **_LIMITS})
    return dict(body)


@dataclass(frozen=True, slots=True)
class NewKeyRequest:
    """A key that is to be made."""

    team: str
    scopes: tuple[str, ...]
    name: str = ""
    expires_at: datetime | None = None
    test: bool = False


def read_new_key(body: Mapping[str, Any], now: datetime) -> NewKeyRequest:
    """The fields of a new key; raise Invalid with every fault."""
    checks: dict[str, Check] = {"team": _team_name, "scopes": _scopes, "name": _label, "test": _flag}
    checks["expiresAt"] = lambda _: None
    faults = _faults(body, checks, required=("team", "scopes"))
    if body.get("test") is True and not faults and not set(body["scopes"]) <= set(TEST_SCOPES):
        faults["scopes"] = [f"A test key can have {', '.join(TEST_SCOPES)} only"]
    expires_at = read_time(body.get("expiresAt"), "expiresAt", faults)
    if expires_at is not None and not now < expires_at < now + LONGEST_LIFE:
        faults["expiresAt"] = ["Must be in the future, and not a hundred years ahead"]
    if faults:
        raise Invalid(details=faults)
    scopes = tuple(scope for scope in SCOPES if scope in body["scopes"])
    return NewKeyRequest(body["team"], scopes, body.get("name", ""), expires_at, body.get("test", False))


def read_grace(body: Mapping[str, Any]) -> float:
    """For how many seconds a rotated key goes on; raise Invalid."""
    _check(body, {"graceSeconds": _grace})
    return float(body.get("graceSeconds", DEFAULT_GRACE_SECONDS))


def _check(body: Mapping[str, Any], checks: Mapping[str, Check], *, required: tuple[str, ...] = ()) -> None:
    if faults := _faults(body, checks, required):
        raise Invalid(details=faults)


def _faults(body: Mapping[str, Any], checks: Mapping[str, Check], required: tuple[str, ...]) -> dict[str, list[str]]:
    faults = {name: [fault] for name, value in body.items() if name in checks and (fault := checks[name](value))}
    faults |= {name: ["No such field"] for name in body if name not in checks}
    return faults | {name: ["Required"] for name in required if name not in body}


def _is_number(value: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _limit(least: int) -> Check:
    def check(value: Any) -> Fault:
        fits = value is None or (_is_number(value, int) and least <= value <= HIGHEST)
        return None if fits else f"Expected an integer from {least} to {HIGHEST:,}, or null"

    return check


def _names(value: Any) -> Fault:
    fits = value is None or (
        isinstance(value, list) and len(value) <= MOST_NAMES and all(_is_text(name, 200) and name for name in value)
    )
    return None if fits else f"Expected a list of at most {MOST_NAMES} names or patterns with *, or null"


def _modalities(value: Any) -> Fault:
    fits = value is None or (isinstance(value, list) and all(each in MODALITIES for each in value))
    return None if fits else f"Expected a list of {', '.join(MODALITIES)}, or null"


def _flag(value: Any) -> Fault:
    return None if isinstance(value, bool) else "Expected true or false"


def _is_text(value: Any, longest: int) -> bool:
    """Whether it is a text that can be kept: no NUL, and no half of a surrogate pair."""
    return isinstance(value, str) and len(value) <= longest and value.isprintable()


def _team_name(value: Any) -> Fault:
    fits = _is_text(value, LONGEST_NAME) and value == value.strip() not in ("", "*")
    return None if fits else f"Expected a name of 1 to {LONGEST_NAME} printable characters, and not *"


def _label(value: Any) -> Fault:
    return None if _is_text(value, LONGEST_NAME) else f"Expected at most {LONGEST_NAME} printable characters"


def _scopes(value: Any) -> Fault:
    fits = isinstance(value, list) and value and all(scope in SCOPES for scope in value)
    return None if fits else f"Expected a list of {', '.join(SCOPES)}"


def _grace(value: Any) -> Fault:
    fits = _is_number(value, (int, float)) and 0 <= value <= LONGEST_GRACE_SECONDS
    return None if fits else f"Expected seconds from 0 to {LONGEST_GRACE_SECONDS}"


_LIMITS: Final[Mapping[str, Check]] = {
    "requestsPerMinute": _limit(1),
    "queuedLimit": _limit(1),
    "inFlightLimit": _limit(1),
    "allowedOperations": _names,
    "allowedModels": _names,
    "monthlyCredits": _limit(0),
    "archivedModalities": _modalities,
    "paused": _flag,
}
