"""Webhooks as Apiframe sends them, for callers that put a `webhook_url` on their own submission: they see no difference.

The key is the caller's own, in place of Apiframe's: SHA-256 of it is the secret, as with Apiframe, and all that is kept.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from app.apiframe.signature import SIGNATURE_HEADER

CallbackEvent = Literal["progress", "completed", "failed"]

CALLBACK_EVENTS: Final[tuple[CallbackEvent, ...]] = ("progress", "completed", "failed")

_EVENT_OF: Final[Mapping[str, CallbackEvent]] = {
    "job.progress": "progress",
    "job.completed": "completed",
    "job.failed": "failed",
    "job.cancelled": "failed",  # Apiframe has no event of its own for it; `status` tells them apart
}
_FIELDS: Final[Mapping[CallbackEvent, tuple[str, ...]]] = {
    "progress": ("progress", "model"),
    "completed": ("progress", "result", "model", "creditCost", "completedAt"),
    "failed": ("error", "model"),
}


def callback_event(event_type: str) -> CallbackEvent | None:
    """Apiframe's word for one of our events; None where Apiframe says nothing."""
    return _EVENT_OF.get(event_type)


def callback_body(event: CallbackEvent, job: Mapping[str, Any]) -> bytes:
    """The body about a job object, in Apiframe's fields; the id is ours, which is the only one that the caller knows."""
    said = {name: job.get(name) for name in _FIELDS[event]}
    return msgspec.json.encode({"event": event, "jobId": job["id"], "status": job["status"], **said})


def callback_headers(event: CallbackEvent, body: bytes, key_digest: bytes) -> dict[str, str]:
    """Apiframe's headers, signed with the SHA-256 of the caller's key."""
    signature = hmac.digest(key_digest, body, "sha256").hex()
    return {SIGNATURE_HEADER: f"sha256={signature}", "x-webhook-event": event}
