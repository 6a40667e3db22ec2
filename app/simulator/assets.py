"""Assets: URLs that are registered for providers that want them beforehand, and shown as a provider shows its own."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from app.simulator import bodies
from app.simulator.catalog import Schema
from app.simulator.config import SimulatorConfig
from app.simulator.job import stamp
from app.simulator.replies import invalid, refusal

_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "url": {"type": "string", "format": "uri"},
        "type": {"type": "string", "enum": ["image", "video", "audio"]},
    },
    "required": ["url", "type"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A registered URL."""

    id: str
    account: str
    url: str
    kind: str
    created_at: datetime


def register(raw: bytes, account: str, now: datetime, config: SimulatorConfig) -> Asset:
    """Read a registration; raise the vendor's 400 for one that is not well-formed."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise refusal(400, "Invalid JSON body") from None
    if not isinstance(body, dict):
        raise invalid({"": ["Expected object"]})
    bodies.insist(_SCHEMA, body, config)
    return Asset(f"asset-{uuid.uuid4().hex[:20]}", account, body["url"], body["type"], now)


def shown(asset: Asset) -> dict[str, Any]:
    """Show an asset in a shape that is the provider's own affair."""
    return {
        "Id": asset.id,
        "Status": "Active",
        "AssetType": asset.kind.capitalize(),
        "SourceUrl": asset.url,
        "CreateTime": stamp(asset.created_at),
    }
