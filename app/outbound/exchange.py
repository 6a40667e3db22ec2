"""One connection to a receiver: POSTs go over it one after another, and of each answer as much is read as is kept.

It serves again only where an answer ended as it said it would, and nothing came that nobody had asked for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

LONGEST_EXCERPT: Final = 16 * 1024
"""Bytes of an answer's body that are kept."""

LONGEST_HEAD: Final = 64 * 1024
LONGEST_ANSWER: Final = 512 * 1024
"""Bytes that are read of an answer's head, and of all of it: an excerpt in chunks of one byte is as long as six of them."""


class InvalidAnswer(OSError):
    """What came is no answer by HTTP/1.1; the message says why."""


class NoAnswer(OSError):
    """The connection was closed before an answer had begun."""


class Overdue(OSError):
    """All the time that there was for a call is over."""


class BrokenAnswer(OSError):
    """The connection was closed in the middle of an answer."""


@dataclass(slots=True)
class Call:
    """What is known of a call so far, whatever may yet interrupt it."""

    status: int | None = None
    address: str | None = None
    body: bytes = b""
    retry_after: str | None = None


class Connection(asyncio.Protocol):
    """Belongs to one call at a time. `usable`: another one may follow. `address`: the IP address at the other end."""

    def __init__(self) -> None:
        self.usable = True
        self.address: str | None = None
        self._call: Call | None = None
        self._begin()

    def _begin(self) -> None:
        self._received, self._head, self._framed, self._interim = 0, 0, False, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.address = transport.get_extra_info("peername")[0]
        self._parser = HttpResponseParser(self)
        # The same liberties as aiohttp takes: what receivers send is read, if it can be read in one way only.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    async def exchange(self, request: bytes, call: Call) -> None:
        """Send a request and read the answer into `call`. Raises OSError; whoever is cancelled ends the connection."""
        self._begin()
        self._call, self._ended = call, asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._ended
        finally:
            self._call = None
            if not self.usable or not self._ended.done() or self._ended.cancelled():
                self.abort()

    def give_up(self) -> None:
        """End the exchange that is under way, which raises Overdue."""
        self._end(Overdue())

    def abort(self) -> None:
        """End the connection at once, whatever is on its way."""
        self.usable = False
        self._transport.abort()

    def close(self) -> None:
        """End a connection that is not in use."""
        self.usable = False
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._call is None or self._ended.done():
            self.abort()  # nobody asked for it: whose answer comes next could not be told
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self.usable = False
        except HttpParserError as error:
            self.usable = False  # the answer may have ended before that
            self._end(InvalidAnswer(str(error)))
        if self._received > (LONGEST_HEAD if self._call.status is None else LONGEST_ANSWER):
            self._end(InvalidAnswer("it is too long"))

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        if self._call is None:
            return
        if self._call.status is None:
            self._end(error if isinstance(error, OSError) else NoAnswer())
        else:  # where nothing frames a body, it ends with its connection
            self._end(BrokenAnswer() if self._framed or error is not None else None)

    # What the parser tells.

    def on_message_begin(self) -> None:
        if self._ended.done():
            self.usable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._call is None or self._call.status is not None:
            return
        self._head += len(name) + len(value)
        if self._head > LONGEST_HEAD:
            self._end(InvalidAnswer("its head is too long"))
        match name.lower():
            case b"content-length" | b"transfer-encoding":
                self._framed = True
            case b"retry-after":
                self._call.retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._interim = 100 <= status < 200 and status != 101
        if self._call is not None and not self._interim and not self._ended.done():
            self._call.status = status

    def on_body(self, piece: bytes) -> None:
        if self._call is None or self._ended.done():
            return
        self._call.body += piece[: LONGEST_EXCERPT - len(self._call.body)]
        if len(self._call.body) >= LONGEST_EXCERPT:
            self._end(usable=False)

    def on_message_complete(self) -> None:
        if self._interim:
            return
        sent = self._transport.get_write_buffer_size() == 0
        self._end(usable=sent and self._parser.should_keep_alive())

    def _end(self, error: OSError | None = None, *, usable: bool = True) -> None:
        """The answer ends here, unless it has ended."""
        if self._ended.done():
            return
        self.usable = self.usable and usable and error is None
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
