"""Which submissions are well-formed. Pure: a body, the catalog's schemas and the config give the body or its faults.

Bodies are closed: a field that is not described is refused, the other spelling of the webhook field as well.
"""

from __future__ import annotations

import re
import uuid
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec

from app.simulator import catalog
from app.simulator.catalog import Schema
from app.simulator.config import SimulatorConfig
from app.simulator.replies import invalid, refusal

EVENTS = ("progress", "completed", "failed")
Fault = tuple[tuple[str, ...], str]
_UNKNOWN = "\0unknown:"
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "number": (int, float),
    "integer": (int, float),
}
_NAMES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    dict: "object",
    list: "array",
    int: "number",
    float: "number",
}


def read(raw: bytes, operation: str, config: SimulatorConfig) -> dict[str, Any]:
    """Parse and check a submission's body; raise the vendor's 400 where it is not what the operation takes."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise refusal(400, "Invalid JSON body") from None
    if not isinstance(body, dict):
        raise invalid({"": [f"Expected object, received {_name(body)}"]})
    insist(_schema(body, operation, config), body, config)
    return body


def insist(schema: Schema, value: Any, config: SimulatorConfig) -> None:
    """Raise the vendor's 400 where a value is not what the schema says."""
    details = _details(list(check(schema, value)), config)
    if details:
        raise invalid(details)


def webhook_url(body: dict[str, Any]) -> str | None:
    """Find the webhook address in a body that was accepted."""
    url = body.get("webhookUrl", body.get("webhook_url"))
    return str(url) if url else None


def variants(operation: str, config: SimulatorConfig) -> dict[str, Schema]:
    """Describe an operation's bodies by model, or by action, webhook fields in."""
    return _variants(operation, config.webhook_field, config.webhook_events_known)


@lru_cache(maxsize=128)
def _variants(operation: str, spelling: str, events: bool) -> dict[str, Schema]:
    spellings = {"both": ["webhookUrl", "webhook_url"], "none": []}.get(spelling, [spelling])
    fields: Schema = {name: {"type": "string", "format": "uri"} for name in spellings}
    if events:
        item = {"type": "string", "enum": list(EVENTS)}
        fields["webhookEvents"] = {"type": "array", "items": item, "minItems": 1}
    made = catalog.action_bodies if operation in catalog.ACTION_MODELS else catalog.model_bodies
    return {name: {**body, "properties": body["properties"] | fields} for name, body in made(operation).items()}


def _schema(body: dict[str, Any], operation: str, config: SimulatorConfig) -> Schema:
    discriminator = "action" if operation in catalog.ACTION_MODELS else "model"
    known = variants(operation, config)
    chosen = body.get(discriminator)
    if not isinstance(chosen, str) or chosen not in known:
        expected = " | ".join(f"'{name}'" for name in known)
        raise invalid({discriminator: [f"Invalid discriminator value. Expected {expected}"]})
    return known[chosen]


def check(schema: Schema, value: Any, path: tuple[str, ...] = ()) -> Iterator[Fault]:
    """Find what is wrong with a value, as (path, message). Knows the few words of JSON Schema that the catalog uses."""
    expected = schema["type"]
    if not isinstance(value, _TYPES[expected]) or (isinstance(value, bool) and expected != "boolean"):
        yield path, f"Expected {expected}, received {_name(value)}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield path, f"Invalid enum value. Expected {' | '.join(repr(each) for each in schema['enum'])}"
    if isinstance(value, str):
        yield from ((path, message) for message in _text_faults(schema, value))
    elif isinstance(value, dict):
        yield from _object_faults(schema, value, path)
    elif isinstance(value, list):
        yield from _list_faults(schema, value, path)
    elif isinstance(value, int | float):
        yield from ((path, message) for message in _number_faults(schema, value))


def _text_faults(schema: Schema, value: str) -> Iterator[str]:
    if len(value) < schema.get("minLength", 0):
        yield f"String must contain at least {schema['minLength']} character(s)"
    if len(value) > schema.get("maxLength", len(value)):
        yield f"String must contain at most {schema['maxLength']} character(s)"
    if "pattern" in schema and not re.fullmatch(schema["pattern"].strip("^$"), value, re.ASCII):
        yield "Invalid"
    if schema.get("format") == "uri" and not _is_url(value):
        yield "Invalid url"
    if schema.get("format") == "uuid" and not is_uuid(value):
        yield "Invalid uuid"


def _number_faults(schema: Schema, value: float) -> Iterator[str]:
    if schema["type"] == "boolean":
        return
    if schema["type"] == "integer" and value != int(value):
        yield "Expected integer, received float"
    if value < schema.get("minimum", value):
        yield f"Number must be greater than or equal to {schema['minimum']}"
    if value <= schema.get("exclusiveMinimum", value - 1):
        yield f"Number must be greater than {schema['exclusiveMinimum']}"
    if value > schema.get("maximum", value):
        yield f"Number must be less than or equal to {schema['maximum']}"


def _object_faults(schema: Schema, value: dict[str, Any], path: tuple[str, ...]) -> Iterator[Fault]:
    properties: Schema = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield (*path, name), "Required"
    for name, item in value.items():
        if name in properties:
            yield from check(properties[name], item, (*path, name))
        elif schema.get("additionalProperties") is False:
            yield path, _UNKNOWN + name


def _list_faults(schema: Schema, value: list[Any], path: tuple[str, ...]) -> Iterator[Fault]:
    if len(value) < schema.get("minItems", 0):
        yield path, f"Array must contain at least {schema['minItems']} element(s)"
    if len(value) > schema.get("maxItems", len(value)):
        yield path, f"Array must contain at most {schema['maxItems']} element(s)"
    for index, item in enumerate(value):
        yield from check(schema["items"], item, (*path, str(index)))


def _details(faults: list[Fault], config: SimulatorConfig) -> dict[str, list[str]]:
    details: defaultdict[str, list[str]] = defaultdict(list)
    for path, message in faults:
        place, text = path, message
        if message.startswith(_UNKNOWN):
            place, text = _unknown(path, message.removeprefix(_UNKNOWN), config.unknown_key_style)
        details[".".join(place)].append(text)
    return dict(details)


def _unknown(path: tuple[str, ...], name: str, style: str) -> Fault:
    """Word the refusal of an unknown field: which of the three the vendor uses is not known."""
    if style == "field":
        return (*path, name), "Unrecognized key"
    if style == "zod3":
        return path, f"Unrecognized key(s) in object: '{name}'"
    return path, f'Unrecognized key: "{name}"'


def is_uuid(value: str) -> bool:
    """Whether a text is a UUID as the vendor writes them."""
    try:
        return str(uuid.UUID(value)) == value.lower()
    except ValueError:
        return False


def _is_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _name(value: Any) -> str:
    return _NAMES.get(type(value), "null")
