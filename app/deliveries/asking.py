"""What a subscriber may ask for, read from the body. Every fault is told at once, by the field's name. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from app.errors import Invalid
from app.events.asking import is_pattern
from app.outbound.headers import header_fault
from app.targets import Targets

MOST_HEADERS: Final = 20
MOST_METADATA: Final = 20
LONGEST_TEXT: Final = 1000
HIGHEST_RATE: Final = 100_000

Fault = str | None
Check = Callable[[Any], Fault]

DEFAULTS: Final[Mapping[str, Any]] = {
    "description": "",
    "types": ["job.*"],
    "operation": None,
    "model": None,
    "metadata": None,
    "allTeams": False,
    "headers": {},
    "rateLimit": None,
    "enabled": True,
}
"""The fields of a subscription beside its `url`, and what they are when nothing is said."""


def read_new(body: Mapping[str, Any], targets: Targets) -> dict[str, Any]:
    """All fields of a new subscription; raise Invalid with every fault."""
    faults = _faults(body, targets)
    if "url" not in body:
        faults["url"] = ["Required"]
    if faults:
        raise Invalid(details=faults)
    return {**DEFAULTS, **body}


def read_changes(body: Mapping[str, Any], targets: Targets) -> dict[str, Any]:
    """The fields that are to change; raise Invalid with every fault."""
    faults = _faults(body, targets)
    if faults:
        raise Invalid(details=faults)
    return dict(body)


def _faults(body: Mapping[str, Any], targets: Targets) -> dict[str, list[str]]:
    checks: dict[str, Check] = {"url": targets.fault, **_CHECKS}
    faults = {name: [fault] for name, value in body.items() if name in checks and (fault := checks[name](value))}
    return faults | {name: ["No such field"] for name in body if name not in checks}


def _text(value: Any) -> Fault:
    fits = isinstance(value, str) and len(value) <= LONGEST_TEXT and "\0" not in value
    return None if fits else f"Expected a text of at most {LONGEST_TEXT} characters, without NUL"


def _text_or_null(value: Any) -> Fault:
    return None if value is None else _text(value)


def _flag(value: Any) -> Fault:
    return None if isinstance(value, bool) else "Expected true or false"


def _types(value: Any) -> Fault:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        return "Expected a non-empty list of types of events, or patterns such as job.*"
    unknown = [each for each in value if not is_pattern(each)]
    return f"Neither a type of event nor a pattern such as job.*: {', '.join(unknown)[:200]}" if unknown else None


def _metadata(value: Any) -> Fault:
    flat = isinstance(value, dict) and len(value) <= MOST_METADATA and all(map(_is_scalar, value.values()))
    plain = flat and all("\0" not in part for pair in value.items() for part in pair if isinstance(part, str))
    return (
        None if value is None or plain else f"Expected an object of at most {MOST_METADATA} texts, numbers and booleans"
    )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _headers(value: Any) -> Fault:
    if not isinstance(value, dict) or len(value) > MOST_HEADERS:
        return f"Expected an object of at most {MOST_HEADERS} headers"
    faults = [f"{name}: {fault}" for name, given in value.items() if (fault := _header(name, given))]
    return "; ".join(faults) or None


def _header(name: str, value: Any) -> Fault:
    return header_fault(name, value) if isinstance(value, str) else "expected a text"


def _rate(value: Any) -> Fault:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= HIGHEST_RATE
    return None if value is None or is_count else f"Expected deliveries a minute from 1 to {HIGHEST_RATE:,}, or null"


_CHECKS: Final[Mapping[str, Check]] = {
    "description": _text,
    "types": _types,
    "operation": _text_or_null,
    "model": _text_or_null,
    "metadata": _metadata,
    "allTeams": _flag,
    "headers": _headers,
    "rateLimit": _rate,
    "enabled": _flag,
}
