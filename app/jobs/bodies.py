"""Read a submission: take out what is ours and check it. What is left goes upstream with the bytes that it came with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from app.errors import Invalid
from app.targets import Targets

LARGEST_BODY: Final = 1024 * 1024
LONGEST_KEY: Final = 255
MOST_METADATA: Final = 50
LONGEST_METADATA_VALUE: Final = 500
PRIORITIES: Final = range(-1000, 1001)

TOO_DEEP: Final = "The body is nested too deeply"

_CALLBACK_FIELDS: Final = ("webhook_url", "webhookUrl")
_OWN_FIELDS: Final = (*_CALLBACK_FIELDS, "webhookEvents", "metadata", "priority")
_EVENTS: Final = ("progress", "completed", "failed")
_METADATA_FORM: Final = (
    f"Expected an object of at most {MOST_METADATA} strings, numbers and booleans,"
    f" each at most {LONGEST_METADATA_VALUE} characters long"
)


class Body(msgspec.Struct, frozen=True):
    """A submission's fields. `faults` are those of ours, and what cannot be kept; theirs are for others to judge."""

    operation: str
    theirs: dict[str, Any]
    wire: dict[str, msgspec.Raw]  # their fields with their bytes
    metadata: Mapping[str, Any] | None
    priority: int
    callback: dict[str, Any] | None
    request_hash: bytes
    faults: dict[str, list[str]]


def read_body(operation: str, raw: bytes, targets: Targets) -> Body:
    """Read a body; raise Invalid for what is no JSON object, or nested too deeply."""
    try:
        return _read_body(operation, raw, targets)
    except RecursionError:
        raise Invalid(TOO_DEEP) from None


def _read_body(operation: str, raw: bytes, targets: Targets) -> Body:
    fields, wire = _read_object(raw)
    faults = _own_faults(fields, targets)
    if b"\\u0000" in raw:
        faults |= {path: ["Must not contain a NUL character"] for path in _paths_with_nul(fields)}
    return Body(
        operation=operation,
        theirs={name: value for name, value in fields.items() if name not in _OWN_FIELDS},
        wire={name: value for name, value in wire.items() if name not in _OWN_FIELDS},
        metadata=fields.get("metadata"),
        priority=fields.get("priority", 0),
        callback=_callback(fields),
        request_hash=_request_hash(operation, fields),
        faults=faults,
    )


def check_idempotency_key(key: str | None) -> None:
    """Raise Invalid for a key that is empty or too long."""
    if key is not None and not 0 < len(key) <= LONGEST_KEY:
        raise Invalid(details={"Idempotency-Key": [f"Must have 1 to {LONGEST_KEY} characters"]})


def _read_object(raw: bytes) -> tuple[dict[str, Any], dict[str, msgspec.Raw]]:
    """The body decoded, and its fields with their bytes as they came: those are what goes upstream."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any]), msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError as error:
        raise Invalid(f"The body must be a JSON object: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Invalid("The body is not valid JSON") from None


def _own_faults(body: Mapping[str, Any], targets: Targets) -> dict[str, list[str]]:
    faults = _callback_faults(body, targets)
    metadata = body.get("metadata")
    if metadata is not None and not _is_flat(metadata):
        faults["metadata"] = [_METADATA_FORM]
    priority = body.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int) or priority not in PRIORITIES:
        faults["priority"] = [f"Expected an integer from {PRIORITIES[0]} to {PRIORITIES[-1]}"]
    return faults


def _callback_faults(body: Mapping[str, Any], targets: Targets) -> dict[str, list[str]]:
    urls = {name: body[name] for name in _CALLBACK_FIELDS if name in body}
    faults = {name: [fault] for name, url in urls.items() if (fault := targets.fault(url))}
    if all(name in body for name in _CALLBACK_FIELDS):
        faults["webhookUrl"] = ["Give either webhook_url or webhookUrl, not both"]
    events = body.get("webhookEvents")
    if "webhookEvents" in body and not (
        isinstance(events, list) and events and all(event in _EVENTS for event in events)
    ):
        faults["webhookEvents"] = [f"Expected a non-empty list of {', '.join(_EVENTS)}"]
    return faults


def _callback(body: Mapping[str, Any]) -> dict[str, Any] | None:
    url = body.get("webhook_url") or body.get("webhookUrl")
    return {"url": url, "events": body.get("webhookEvents", list(_EVENTS))} if url else None


def _is_flat(metadata: Any) -> bool:
    return (
        isinstance(metadata, dict)
        and len(metadata) <= MOST_METADATA
        and all(
            isinstance(value, str | int | float | bool) and len(str(value)) <= LONGEST_METADATA_VALUE
            for value in metadata.values()
        )
    )


def _paths_with_nul(value: Any, path: str = "") -> list[str]:
    """Where NUL characters are, which PostgreSQL cannot keep."""
    if isinstance(value, str):
        return [path] if "\0" in value else []
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in _paths_with_nul(item, f"{path}.{index}")]
    if not isinstance(value, dict):
        return []
    inner = [found for key, item in value.items() for found in _paths_with_nul(item, f"{path}.{key}" if path else key)]
    return inner + [path for key in value if "\0" in key]


def _request_hash(operation: str, body: Mapping[str, Any]) -> bytes:
    """What makes two requests the same: the operation and all fields, whatever their order and spacing."""
    return hashlib.sha256(operation.encode() + b"\0" + msgspec.json.encode(body, order="deterministic")).digest()
