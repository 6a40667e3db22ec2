"""An answer to a GET, whose body is handed on as it comes: little of it is in memory, and a source may be slow.

What the network does to it is told by one kind of exception, before the head as in the middle of the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from app.outbound.headers import accepts_ranges, content_range, media_type, printable
from app.outbound.words import describe

LARGEST_PIECE: Final = 256 * 1024
"""Bytes. Two or three times as much of a body is in memory at once."""


class CallFailed(Exception):
    """A call came to nothing, or its answer was not to be had whole; the message is one line for people that says why."""


class Download:
    """What the head of an answer says, and the body. Both are to be had within the block of `Outbound.get` only.

    `url` is where the last redirect led. `length` is that of this body, in bytes; None: it was not told, and of a body that
    ends with its connection nobody can tell whether it is whole. `etag` and `last_modified` are as they were sent, which
    is how `If-Range` gives them back. Of what was not sent, or makes no sense, None is told. `framed`: something else than
    the end of the connection says where the body ends.
    """

    def __init__(self, response: aiohttp.ClientResponse, *, idle_seconds: float) -> None:
        headers = response.headers
        self.status = response.status
        self.url = str(response.url)
        self.content_type = media_type(headers.get("Content-Type"))
        self.length = response.content_length
        self.etag = printable(headers.get("ETag"))
        self.last_modified = printable(headers.get("Last-Modified"))
        self.accepts_ranges = accepts_ranges(headers.get("Accept-Ranges"))
        self.content_range = content_range(headers.get("Content-Range"))
        self._compressed = headers.get("Content-Encoding", "identity").lower() not in ("", "identity")
        self._content = response.content
        self._idle_seconds = idle_seconds
        # Where nothing frames the body, the way in which its connection ended says whether it is whole.
        self.framed = self.length is not None or "chunked" in headers.get("Transfer-Encoding", "").lower()
        self._ending = None if self.framed or response.connection is None else response.connection.protocol

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body from where it was read to, in pieces of at most `LARGEST_PIECE`; while none is asked for, none is sent.

        Raises CallFailed when nothing came for `idle_seconds` that were waited, when the body breaks off, and when it is
        compressed, which nobody asked for.
        """
        if self._compressed:
            raise CallFailed("the answer is compressed though it was not asked to be")
        while piece := await self._read():
            yield piece

    async def _read(self) -> bytes:
        async with telling(self._idle_seconds, late="no byte for"):
            try:
                piece = await self._content.read(LARGEST_PIECE)
            except RuntimeError:
                # aiohttp's word for reading on after a chunk that was none: it closed the connection and told nobody.
                raise CallFailed("the answer broke off") from None
        # To aiohttp a body that ends with its connection is whole, whatever ended that.
        failure = None if piece or self._ending is None else self._ending.exception()
        if isinstance(failure, OSError):
            raise CallFailed(describe(failure))
        return piece


@asynccontextmanager
async def telling(seconds: float, *, late: str) -> AsyncIterator[None]:
    """Raise CallFailed for whatever the network does to the block, and when that takes longer than so many seconds."""
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            yield
    except (aiohttp.ClientError, OSError) as failure:
        words = f"timed out: {late} {seconds:g} s" if deadline.expired() else describe(failure)
        raise CallFailed(words) from failure
