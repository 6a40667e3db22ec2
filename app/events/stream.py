"""One client that follows the log by server-sent events. It holds a cursor and no buffer; what it was sent it saw once.

https://html.spec.whatwg.org/multipage/server-sent-events.html is the format. A block with an `id` and no `data` moves the
number that a client resumes at and is no event to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, cast

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.auth import Caller
from app.context import Context
from app.db import OUTAGES
from app.errors import Forbidden, Unauthenticated
from app.events.feed import EventFilter
from app.events.tail import Stretch, Tail, Told
from app.http import context
from app.models.jobs import FINAL
from app.notify import wait

log = structlog.get_logger()

BEAT_SECONDS: Final = 15.0
"""After so long a silence something is sent, so that nobody in between takes the connection for dead."""

IDENTIFY_SECONDS: Final = 4.0
"""How often it is asked whether the key behind a stream is still good."""

IDENTIFY_TIMEOUT_SECONDS: Final = 1.0
"""A database that does not say is no reason to end a stream, or to keep it silent."""

STALLED_SECONDS: Final = 30.0
"""A client that takes nothing for so long is cut off. It can resume."""

RETRY_MILLISECONDS: Final = 2_000
"""How long a client is to wait before it comes back."""

CHUNK_BYTES: Final = 16 * 1024
"""About so much is written at once, and the server keeps as much again for a client that does not read."""

ENDS: Final = frozenset(f"job.{status.lower()}" for status in FINAL)
"""After these nothing more is to be said of a job."""

_HEADERS: Final[Mapping[str, str]] = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


class EventStream(Response):
    """Events from a cursor on, until the client leaves, its key ends, the process stops, or the job that it is about."""

    media_type = "text/event-stream"

    def __init__(
        self,
        request: Request,
        identify: Callable[[], Awaitable[Caller]],
        cursor: int,
        asked: EventFilter,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(_HEADERS)
        self._ctx: Context = context(request)
        self._tail = tail(request)
        self._identify = identify
        self._asked = asked
        self._cursor = cursor  # everything up to here was sent, or does not concern the client
        self._known = cursor  # what the client would resume at
        self._older: Stretch | None = None
        self._reading: asyncio.Task[Stretch | None] | None = None
        self._event_count = 0
        self._over: str | None = None  # why there is nothing more to tell
        self._left = self._was_cut = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell until there is a reason to end. Raises ClientDisconnect where the client is gone before that begins."""
        self._send, self._transport = send, _transport(receive)
        if self._transport is not None:
            if self._transport.is_closing():
                raise ClientDisconnect()
            self._transport.set_write_buffer_limits(high=CHUNK_BYTES)  # its own would be four times as much
        self._loop = asyncio.get_running_loop()
        began = self._checked_at = self._spoke_at = self._loop.time()
        # Nobody nudges this topic: a process that begins to close wakes whoever listens to anything.
        with self._ctx.notify.listening("closing") as self._woken, self._tail.followed(self):
            watching = asyncio.create_task(self._watch(receive))
            try:
                reason = await self._follow()
            except _Stalled:
                reason = "stalled"
                self.cut()
                await asyncio.wait({watching}, timeout=1)  # until the server knows that nobody is there any more
            finally:
                self._left = True
                watching.cancel()
        log.info(
            "stream.ended",
            reason=reason,
            seconds=round(self._loop.time() - began, 1),
            event_count=self._event_count,
            team_id=str(self._asked.team_id) if self._asked.team_id else None,
            job_id=str(self._asked.job_id) if self._asked.job_id else None,
        )

    def wake(self) -> None:
        """Look whether there is something new."""
        self._woken.set()

    def cut(self) -> None:
        """End the connection without waiting for what is on its way. ASGI has no word for that, so the server is asked."""
        self._was_cut = True
        if self._transport is not None:
            self._transport.abort()

    async def _follow(self) -> str:
        """Tell until there is a reason to stop, and return that."""
        await self._send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await self._write(b"retry: %d\nid: %d\n\n" % (RETRY_MILLISECONDS, self._cursor))
        while True:
            self._woken.clear()
            if reason := await self._reason_to_end():
                await self._end()
                return reason
            if await self._tell():
                await asyncio.sleep(0)  # a client with much to catch up lets the others have their turn
            else:
                await self._pause()

    async def _reason_to_end(self) -> str | None:
        if self._left:
            return "left"
        if self._ctx.closing.is_set():
            return "closing"
        if self._over is not None:
            return self._over
        return None if await self._may_go_on() else "key"

    async def _may_go_on(self) -> bool:
        """Whether the key is still good, as far as that can be found out; what it may see is seen from now on."""
        if self._loop.time() < self._checked_at + IDENTIFY_SECONDS:
            return True
        try:
            async with asyncio.timeout(IDENTIFY_TIMEOUT_SECONDS):
                caller = await self._identify()
        except (Unauthenticated, Forbidden):
            return False
        except OUTAGES:
            pass  # the key ring has told of it
        else:
            self._asked = replace(self._asked, team_id=caller.only_team)
        self._checked_at = self._loop.time()
        return True

    async def _tell(self) -> bool:
        """Send what comes next; False where there is nothing now."""
        stretch = self._tail.newest(self._cursor)
        if stretch is not None:
            self._older = self._reading = None  # a page that is still on its way would lead back to where it begins
        else:
            stretch = self._read_older()
        if stretch is None:
            return False
        if stretch.through is None:
            self._over = "gone"
            return True
        before = self._cursor
        if chunk := self._take(stretch, stretch.through):
            await self._write(chunk)
        return self._cursor != before

    def _take(self, stretch: Stretch, through: int) -> bytes:
        """The next events for this client, not many more bytes than a chunk has; the cursor moves past them."""
        parts, size = [], 0
        for told in stretch.after(self._cursor):
            self._cursor = told.sequence
            if not self._concerns(told):
                continue
            if self._asked.types is None or told.type in self._asked.types:
                parts.append(told.wire)
                size += len(told.wire)
                self._known = told.sequence
            if self._asked.job_id is not None and told.type in ENDS:
                self._over = "finished"
            if self._over or size >= CHUNK_BYTES:
                break
        else:
            self._cursor = through
        self._event_count += len(parts)
        return b"".join(parts)

    def _concerns(self, told: Told) -> bool:
        asked = self._asked
        concerns = asked.team_id in (None, told.team_id) and asked.job_id in (None, told.job_id)
        return concerns and not (asked.live and told.is_test)

    def _read_older(self) -> Stretch | None:
        """A page from the database; None while it is on its way. Whoever waits for it goes on to be heard of."""
        if self._older is not None and self._older.through is not None and self._cursor < self._older.through:
            return self._older
        if self._reading is None:
            # The end of a job must be seen where its type was not asked for. A job has few events.
            asked = self._asked if self._asked.job_id is None else replace(self._asked, types=None)
            self._reading = self._ctx.start(self._tail.read_older(self._cursor, asked, lambda: not self._left))
            self._reading.add_done_callback(lambda _: self.wake())
        if not self._reading.done():
            return None
        self._older, self._reading = self._reading.result(), None
        return self._older

    async def _pause(self) -> None:
        """Wait for something new, and say something after a long silence: how far the client came, if that changed."""
        now, due = self._loop.time(), self._spoke_at + BEAT_SECONDS
        if now < due:
            await wait(self._woken, min(due, self._checked_at + IDENTIFY_SECONDS) - now)
        elif self._cursor == self._known:
            await self._write(b": beat\n\n")
        else:
            self._known = self._cursor
            await self._write(b": beat\n\nid: %d\n\n" % self._cursor)

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        """Send; raise _Stalled where the client takes nothing."""
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            raise _Stalled from None
        except OSError:  # what servers other than uvicorn say of a client that left
            self._left = True
        self._spoke_at = self._loop.time()

    async def _end(self) -> None:
        """End in good order. While the process stops, stay until the client has read it, or is cut off for not reading."""
        await self._write(b"", more=False)
        while self._ctx.closing.is_set() and not self._was_cut and self._transport is not None:
            if not self._transport.get_write_buffer_size():
                return
            await asyncio.sleep(0.02)

    async def _watch(self, receive: Receive) -> None:
        """Wait until the client leaves."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self.wake()


def tail(request: Request) -> Tail:
    """What all streams of this process follow."""
    return cast(Tail, request.app.state.tail)


class _Stalled(Exception):
    """The client takes nothing."""


def _transport(receive: Receive) -> Any:
    """The connection under a request, where the server is uvicorn; None with any other."""
    return getattr(getattr(receive, "__self__", None), "transport", None)
