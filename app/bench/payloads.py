"""The bytes that are sent: a webhook as Apiframe words it, a submission as a team does, and both as HTTP requests.

The limit writes the same bodies, but for the ids in them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import msgspec

from app.apiframe.signature import SIGNATURE_HEADER, WEBHOOK_PATH, make_token

MODEL: Final = "flux-1.1-pro-ultra"
OPERATION: Final = "images/generate"
CREDITS: Final = 10

INPUT: Final = {
    "model": MODEL,
    "prompt": "a lighthouse in a storm, oil on canvas, the sea in front of it high and grey, gulls above the gallery",
    "fluxParams": {"aspect_ratio": "16:9", "output_format": "png"},
}
METADATA: Final = {"order": "A-20417", "campaign": "autumn"}

_PICTURE: Final = "https://cdn.apiframe.ai/results/{}/{}.png"


def submission() -> bytes:
    """A team's submission."""
    return msgspec.json.encode(INPUT | {"metadata": METADATA})


def webhook(upstream_id: str) -> bytes:
    """Apiframe's word that a job of its own is completed, with four pictures."""
    return msgspec.json.encode(
        {
            "event": "completed",
            "jobId": upstream_id,
            "status": "COMPLETED",
            "progress": 100,
            "result": {"images": [_PICTURE.format(upstream_id, number) for number in range(4)]},
            "model": MODEL,
            "creditCost": CREDITS,
            "completedAt": "2026-11-28T12:00:00.000Z",
        }
    )


def signed(body: bytes, api_key: str) -> str:
    """The signature of a webhook, as Apiframe's own client checks it."""
    return "sha256=" + hmac.new(hashlib.sha256(api_key.encode()).digest(), body, hashlib.sha256).hexdigest()


def webhook_request(secret: bytes, api_key: str, job_id: UUID, upstream_id: str) -> bytes:
    """A webhook with its token and its signature."""
    body = webhook(upstream_id)
    path = WEBHOOK_PATH.format(job_id=job_id, token=make_token(secret, job_id))
    headers = {"User-Agent": "Apiframe", "X-Webhook-Event": "completed", SIGNATURE_HEADER: signed(body, api_key)}
    return post(path, headers, body)


def submit_request(api_key: str, idempotency_key: str) -> bytes:
    """A submission that is answered as soon as it is kept."""
    headers = {"X-API-Key": api_key, "Idempotency-Key": idempotency_key, "Prefer": "respond-async"}
    return post(f"/v2/{OPERATION}", headers, submission())


def post(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A POST of JSON on a connection that is kept."""
    return (
        _request("POST", path, {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}) + body
    )


def get(path: str, headers: Mapping[str, str]) -> bytes:
    """A GET on a connection that is kept."""
    return _request("GET", path, headers)


def _request(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
