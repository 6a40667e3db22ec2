"""URLs of kept files: stable ones, for those who have a key, and signed ones, good for a while, for those who have none."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from app.context import Context

GOOD_FOR: Final = timedelta(hours=24)
"""How long a link in a job's `result` opens its file: as long as the upstream's own do."""

_SLOT: Final = timedelta(hours=1)
"""Ends of such links are full hours, so that a page that is read twice has the same link twice."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_SECONDS: Final = re.compile(r"[1-9][0-9]{0,10}")


@dataclass(frozen=True, slots=True)
class Links:
    """What the URLs of files are made with."""

    base_url: str
    secret: bytes
    now: datetime

    def stable(self, file_id: UUID) -> str:
        """The URL of a file for ever; it asks for a key."""
        return f"{self.base_url}/v1/files/{file_id}"

    def signed(self, file_id: UUID, expires_at: datetime | None = None) -> str:
        """A URL that needs no key, until then, to the second; without a time for `GOOD_FOR` or somewhat longer."""
        end = expires_at or self.now + GOOD_FOR + _SLOT - (self.now - _EPOCH) % _SLOT
        seconds = (end - _EPOCH) // timedelta(seconds=1)
        query = urlencode({"expires": seconds, "signature": _sign(self.secret, file_id, seconds)})
        return f"{self.stable(file_id)}?{query}"


async def links(ctx: Context) -> Links:
    """What URLs are made with now."""
    return Links(ctx.settings.base_url, (await ctx.webhook_secrets())[0], ctx.now())


def is_signed(query: Mapping[str, str], file_id: UUID, secrets: Iterable[bytes], now: datetime) -> bool:
    """Whether a query holds what `Links.signed` made for this file, and it is still good."""
    expires, signature = query.get("expires", ""), query.get("signature", "")
    # Numbers and base64 can be written in more than one way; a link is good in the one that we wrote it in.
    if not _SECONDS.fullmatch(expires):
        return False
    given, end = signature.encode(), int(expires)
    if not any(hmac.compare_digest(given, _sign(secret, file_id, end).encode()) for secret in secrets):
        return False
    return (now - _EPOCH) / timedelta(seconds=1) < end


def _sign(secret: bytes, file_id: UUID, expires: int) -> str:
    # Webhook tokens and tickets are made with the same secret: a key of its own keeps one from passing for another.
    key = hmac.digest(secret, b"framehook links of files", "sha256")
    seal = hmac.digest(key, file_id.bytes + expires.to_bytes(8), "sha256")
    return base64.urlsafe_b64encode(seal).rstrip(b"=").decode()
