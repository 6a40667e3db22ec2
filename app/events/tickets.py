"""Tickets open a stream where no header can be sent, as in a browser. Each stands for the key that made it, for a minute.

A ticket is kept nowhere: it is the key's id and an end, under a seal that only we can make.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from starlette.requests import Request

from app.auth import Caller
from app.errors import Unauthenticated
from app.http import caller, caller_by_id, context

GOOD_FOR: Final = timedelta(seconds=60)
"""How long a ticket opens streams. What it opened goes on after that."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SEALED: Final = 24  # bytes before the seal: the id and the end


def make_ticket(secret: bytes, key_id: UUID, expires_at: datetime) -> str:
    """A ticket for this key, good until then, to the millisecond."""
    milliseconds = (expires_at - _EPOCH) // timedelta(milliseconds=1)
    content = key_id.bytes + milliseconds.to_bytes(8)
    return base64.urlsafe_b64encode(content + _seal(secret, content)).rstrip(b"=").decode()


def read_ticket(ticket: str, secrets: Iterable[bytes], now: datetime) -> UUID | None:
    """The id of the key that made this ticket; None where none of our secrets sealed it, or it is over."""
    try:
        raw = base64.b64decode(ticket + "=" * (-len(ticket) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    content, seal = raw[:_SEALED], raw[_SEALED:]
    if not any(hmac.compare_digest(seal, _seal(secret, content)) for secret in secrets):
        return None
    end = _EPOCH + timedelta(milliseconds=int.from_bytes(content[16:]))
    return UUID(bytes=content[:16]) if now < end else None


async def identify_by(request: Request, *scopes: str) -> Callable[[], Awaitable[Caller]]:
    """How to learn, again and again, who follows a stream: by the ticket in the query, or else by the key in a header.

    Raises Unauthenticated for a ticket that is not good. What is returned asks whether the key still is.
    """
    ticket = request.query_params.get("ticket")
    if ticket is None:
        return lambda: caller(request, *scopes)
    ctx = context(request)
    key_id = read_ticket(ticket, await ctx.webhook_secrets(), ctx.now())
    if key_id is None:
        raise Unauthenticated("The ticket is not ours, or its time is over")
    return lambda: caller_by_id(request, key_id, *scopes)


def _seal(secret: bytes, content: bytes) -> bytes:
    # Webhook tokens are made with the same secret: a key of its own keeps either from passing for the other.
    return hmac.digest(hmac.digest(secret, b"framehook tickets of streams", "sha256"), content, "sha256")
