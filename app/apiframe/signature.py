"""What proves that a webhook is the upstream's: the token in its URL, and the signature over its raw bytes."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final, Literal
from uuid import UUID

Verdict = Literal["valid", "wrong", "absent"]

SIGNATURE_HEADER: Final = "x-webhook-signature"
WEBHOOK_PATH: Final = "/webhooks/apiframe/{job_id}/{token}"


def make_token(secret: bytes, job_id: UUID) -> str:
    """HMAC-SHA256 over the job id, URL-safe: 256 bits that only we can make."""
    digest = hmac.digest(secret, str(job_id).encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def token_is_ours(token: str, secrets: Iterable[bytes], job_id: UUID) -> bool:
    """Whether any of our secrets, current or previous, made this token for this job. Constant time."""
    given = token.encode()
    return any([hmac.compare_digest(given, make_token(secret, job_id).encode()) for secret in secrets])


def webhook_url(public_base_url: str, secret: bytes, job_id: UUID) -> str:
    """Where the upstream is to report on this job."""
    return public_base_url + WEBHOOK_PATH.format(job_id=job_id, token=make_token(secret, job_id))


def check(body: bytes, header: str | None, api_keys: Iterable[str]) -> Verdict:
    """Verify `X-Webhook-Signature`: `sha256=<hex>` or bare hex, HMAC-SHA256 of the raw body.

    The secret is the API key's SHA-256: its raw digest in the official client, its hex text in the docs' wording. Both are
    accepted, for the current and the previous keys. How long it takes tells which of them it was, and nothing else.
    """
    if not header:
        return "absent"
    given = header.strip().removeprefix("sha256=").lower().encode()
    matches = any(
        hmac.compare_digest(given, hmac.digest(secret, body, "sha256").hex().encode())
        for key in api_keys
        for secret in _secrets(key)
    )
    return "valid" if matches else "wrong"


def fingerprint(api_key: str) -> str:
    """A name for a key that may be stored: unlike its plain SHA-256, it is nobody's webhook secret."""
    return hashlib.sha256(b"framehook upstream key " + api_key.encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=16)
def _secrets(api_key: str) -> tuple[bytes, bytes]:
    digest = hashlib.sha256(api_key.encode()).digest()
    return digest, digest.hex().encode()
