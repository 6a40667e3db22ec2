"""LoRAs: trained from a form with pictures, ready after as long as a generation takes, archived rather than deleted."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.simulator import bodies
from app.simulator.bodies import EVENTS
from app.simulator.catalog import Schema
from app.simulator.config import SimulatorConfig
from app.simulator.job import stamp
from app.simulator.multipart import Part, parts
from app.simulator.replies import invalid
from app.simulator.uploads import sniff

COST = 2
"""Credits, taken when training begins."""

_MEGABYTE = 1024 * 1024
_LARGEST_IMAGE, _LARGEST_IMAGES = 10 * _MEGABYTE, 100 * _MEGABYTE
_FEWEST, _MOST = 15, 30
_IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
_SHORT: Schema = {"type": "string", "minLength": 1, "maxLength": 40}
_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 60},
        "subjectKind": {"type": "string", "enum": ["person", "style", "object"]},
        "gender": {"type": "string", "enum": ["female", "male", "non-binary"]},
        "ethnicity": _SHORT,
        "age": _SHORT,
        "steps": {"type": "integer", "minimum": 500, "maximum": 3000},
        "loraRank": {"type": "integer", "minimum": 8, "maximum": 64},
        "webhookUrl": {"type": "string", "format": "uri"},
        "webhookEvents": {"type": "string"},
    },
    "required": ["name"],
    "additionalProperties": False,
}


@dataclass(slots=True)
class Lora:
    """A LoRA from the moment it is to be trained. `fields` are its form's, without the pictures."""

    id: str
    account: str
    fields: dict[str, Any]
    image_count: int
    image_bytes: int
    created_at: datetime
    archived: bool = False

    @property
    def order(self) -> tuple[datetime, str]:
        """The place in lists, which begin with the newest."""
        return self.created_at, self.id


def train(body: bytes, content_type: str, account: str, now: datetime, config: SimulatorConfig) -> Lora:
    """Read a form; raise the vendor's 400 where it is not well-formed."""
    form = list(parts(body, content_type))
    images = [part.content for part in form if part.name == "images" and part.is_file]
    fields = _fields(part for part in form if part.name != "images")
    bodies.insist(_SCHEMA, fields, config)
    _check_subject(fields)
    _check_images(images)
    return Lora(str(uuid.uuid4()), account, fields, len(images), sum(map(len, images)), now)


def shown(lora: Lora, owner: tuple[str, str], now: datetime, config: SimulatorConfig) -> dict[str, Any]:
    """Show a LoRA as the vendor does; `owner` is the ids of user and team."""
    ready_at = lora.created_at + timedelta(seconds=config.generate_seconds)
    ready = not config.hold and now >= ready_at
    fields = lora.fields
    return {
        "id": lora.id,
        "userId": owner[0],
        "teamId": owner[1],
        "name": fields["name"],
        "subjectKind": fields.get("subjectKind", "person"),
        **{name: fields.get(name) for name in ("gender", "ethnicity", "age")},
        "status": "ARCHIVED" if lora.archived else "READY" if ready else "PENDING",
        "imageCount": lora.image_count,
        "steps": fields.get("steps", 1000),
        "loraRank": fields.get("loraRank", 16),
        "isReady": ready and not lora.archived,
        "error": None,
        "createdAt": stamp(lora.created_at),
        "startedAt": stamp(lora.created_at) if ready else None,
        "completedAt": stamp(ready_at) if ready else None,
        "hasWeights": ready,
        "triggerWord": "TOK" if ready else None,
    }


def page(
    loras: Mapping[str, Lora], account: str, query: Mapping[str, str], config: SimulatorConfig
) -> tuple[list[Lora], str | None]:
    """Pick a page, newest first, and the cursor of the next: the id of the last LoRA that was shown."""
    limit, cursor = _checked_query(query)
    wanted = sorted((lora for lora in loras.values() if lora.account == account), key=lambda lora: lora.order)[::-1]
    if cursor is not None:
        after = loras.get(cursor)
        if after is None or after.account != account:
            raise invalid({"cursor": ["Invalid cursor"]})
        wanted = [lora for lora in wanted if lora.order < after.order]
    found = [lora for lora in wanted if query.get("includeArchived") == "true" or not lora.archived]
    return found[:limit], found[limit - 1].id if len(found) > limit else None


def _fields(form: Iterable[Part]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for part in form:
        text = part.content.decode(errors="replace")
        number = part.name in ("steps", "loraRank") and text.isascii() and text.isdecimal() and len(text) < 9
        fields[part.name] = int(text) if number else text
    return fields


def _check_subject(fields: dict[str, Any]) -> None:
    details: defaultdict[str, list[str]] = defaultdict(list)
    if fields.get("subjectKind", "person") == "person":
        for name in ("gender", "ethnicity"):
            if name not in fields:
                details[name].append("Required")
    events = fields.get("webhookEvents", EVENTS[0]).split(",")
    if not set(events) <= set(EVENTS):
        details["webhookEvents"].append(f"Expected some of {', '.join(EVENTS)}")
    if details:
        raise invalid(dict(details))


def _check_images(images: list[bytes]) -> None:
    if not _FEWEST <= len(images) <= _MOST:
        raise invalid({"images": [f"Expected {_FEWEST} to {_MOST} images, received {len(images)}"]})
    if any(len(image) > _LARGEST_IMAGE for image in images) or sum(map(len, images)) > _LARGEST_IMAGES:
        raise invalid({"images": ["File is too large"]})
    if any(sniff(image, "images")[0] not in _IMAGE_TYPES for image in images):
        raise invalid({"images": ["Unsupported file type"]})


def _checked_query(query: Mapping[str, str]) -> tuple[int, str | None]:
    details = {}
    limit, cursor = query.get("limit", "24"), query.get("cursor")
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 4 and 1 <= int(limit) <= 100):
        details["limit"] = ["Expected a number from 1 to 100"]
    if query.get("includeArchived", "false") not in ("true", "false"):
        details["includeArchived"] = ["Invalid enum value. Expected true | false"]
    if cursor is not None and not bodies.is_uuid(cursor):
        details["cursor"] = ["Invalid uuid"]
    if details:
        raise invalid(details)
    return int(limit), cursor
