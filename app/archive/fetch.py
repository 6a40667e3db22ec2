"""Fetch a file from its source. Nothing of it is passed on before its beginning says that it is a picture, film or sound."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from app.archive.media import SNIFFED, MediaType, sniff
from app.outbound.client import Outbound
from app.outbound.download import CallFailed, Download

IDLE_SECONDS: Final = 30.0
"""A source that sends nothing for so long is given up for this time."""

PATIENCE_SECONDS: Final = 600.0
LEAST_RATE: Final = 64 * 1024
"""Bytes in a second: an attempt that takes longer goes on for as long as so many have come on average."""

MOST_RESUMES: Final = 5
"""How often in one attempt a broken connection is taken up where it broke."""

_PASSING: Final = frozenset({408, 425, 429})
"""Statuses below 500 that say: not now."""


class Unfit(Exception):
    """The source has something else than a file of ours, which time may change but hardly will."""


class TooSlow(Exception):
    """The source sends so little that nobody else shall wait for the rest."""


class TooLarge(Exception):
    """The file is larger than what is kept."""


class Fetch:
    """One file on its way, once: `pieces()` yields it, and afterwards the other fields describe what came."""

    def __init__(self, http: Outbound, url: str, *, largest: int) -> None:
        self._http = http
        self._url = url
        self._largest = largest
        self._hash = hashlib.sha256()
        self._validator: str | None = None  # what the source must still say of the file if the rest is asked for
        self._begun_at = time.monotonic()
        self.size = 0
        self.is_whole = False  # known by more than the connection's end
        self.media: MediaType | None = None

    @property
    def sha256(self) -> bytes:
        """Of what has come so far."""
        return self._hash.digest()

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The file from its beginning to its end, however often the connection broke in between.

        Raises CallFailed for what may be otherwise soon, Unfit, TooSlow, TooLarge, and TargetRefused from the guard.
        """
        head = b""
        async with aclosing(self._resumed()) as pieces:
            async for piece in pieces:
                self._note(piece)
                if self.media is not None:
                    yield piece
                    continue
                head += piece
                if len(head) >= SNIFFED:
                    self._sniff(head)
                    yield head
        if self.media is None:
            self._sniff(head)
            yield head

    async def _resumed(self) -> AsyncGenerator[bytes]:
        for resumes in range(MOST_RESUMES + 1):
            begun_at = self.size
            try:
                async with self._http.get(self._url, headers=self._rest(), idle_seconds=IDLE_SECONDS) as download:
                    self._admit(download)
                    async for piece in download.pieces():
                        yield piece
                    self.is_whole = download.framed
                return
            except CallFailed:
                if self._validator is None or self.size == begun_at or resumes == MOST_RESUMES:
                    raise

    def _rest(self) -> dict[str, str]:
        """Headers that ask for what has not come yet (RFC 9110, 13.1.5 and 14.2)."""
        if not self.size or self._validator is None:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self._validator}

    def _admit(self, download: Download) -> None:
        """Judge the head of an answer."""
        if download.status >= 500 or download.status in _PASSING:
            raise CallFailed(f"the source answers {download.status}")
        if self.size:
            range_ = download.content_range
            if download.status != 206 or range_ is None or range_[0] != self.size:
                raise Unfit("the source changed while it was fetched")
            return
        if download.status != 200:
            raise Unfit(f"the source answers {download.status}")
        if download.length is not None and download.length > self._largest:
            raise TooLarge(f"{download.length:,} bytes; at most {self._largest:,} are kept")
        strong = download.etag is not None and not download.etag.startswith("W/")
        self._validator = download.etag if strong and download.accepts_ranges else None

    def _note(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size > self._largest:
            raise TooLarge(f"more than {self._largest:,} bytes, which is the most that is kept")
        self._hash.update(piece)
        seconds = time.monotonic() - self._begun_at
        if seconds > PATIENCE_SECONDS and self.size < LEAST_RATE * seconds:
            raise TooSlow(f"it comes too slowly: {self.size:,} bytes in {seconds:,.0f} seconds")

    def _sniff(self, head: bytes) -> None:
        self.media = sniff(head)
        if self.media is None:
            what = "is empty" if not head else f"is no picture, film or sound: it begins with {head[:16]!r}"
            raise Unfit(f"the file {what}")
