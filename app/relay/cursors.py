"""Places in the upstream's lists, sealed: a cursor of the upstream's is an id of something, which may be another team's.

A seal hides the place and is good for the team that it was made for. The way is that of a synthetic initialization vector
(RFC 5297): what authenticates the place is also what its disguise is drawn from, so that one place has one cursor.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final
from uuid import UUID

_TAG: Final = 16  # bytes


def seal(secret: bytes, team_id: UUID, place: str) -> str:
    """A cursor for this team, of which nobody can read the place."""
    raw = place.encode()
    tag = _tag(secret, team_id, raw)
    return base64.urlsafe_b64encode(tag + _disguised(secret, tag, raw)).rstrip(b"=").decode()


def unseal(secrets: Iterable[bytes], team_id: UUID, cursor: str) -> str | None:
    """The place; None where none of our secrets sealed it for this team."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    tag, disguised = raw[:_TAG], raw[_TAG:]
    for secret in secrets:
        place = _disguised(secret, tag, disguised)
        if hmac.compare_digest(tag, _tag(secret, team_id, place)):
            return place.decode()
    return None


def _tag(secret: bytes, team_id: UUID, place: bytes) -> bytes:
    # Other things are sealed with the same secret: a key of its own keeps one from passing for another.
    key = hmac.digest(secret, b"framehook places in lists", "sha256")
    return hmac.digest(key, team_id.bytes + place, "sha256")[:_TAG]


def _disguised(secret: bytes, tag: bytes, place: bytes) -> bytes:
    """The place with a stream of pseudorandom bytes laid over it; laid over it again, it is the place."""
    key = hmac.digest(secret, b"framehook disguise of places", "sha256")
    stream = hashlib.shake_256(key + tag).digest(len(place))
    return bytes(one ^ other for one, other in zip(place, stream, strict=True))
