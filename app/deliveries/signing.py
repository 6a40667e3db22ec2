"""How a receiver knows that a delivery is ours: Standard Webhooks, by a secret that only it and we have.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import functools
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Final
from uuid import UUID

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what secrets begin with
SECRET_BYTES: Final = 32
KEYS_KEPT: Final = 1024


def make_secret() -> str:
    """A new secret, as receivers keep it."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed_headers(event_id: UUID, at: datetime, body: bytes, signing_secrets: Iterable[str]) -> dict[str, str]:
    """The three headers of the standard, with one signature for each secret that the receiver may know."""
    told_id, stamp = str(event_id), str(int(at.timestamp()))
    signed = f"{told_id}.{stamp}.".encode() + body
    signatures = [f"v1,{_sign(secret, signed)}" for secret in signing_secrets]
    return {"webhook-id": told_id, "webhook-timestamp": stamp, "webhook-signature": " ".join(signatures)}


def _sign(secret: str, signed: bytes) -> str:
    return base64.b64encode(hmac.digest(_key(secret), signed, "sha256")).decode()


@functools.lru_cache(KEYS_KEPT)
def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX))
