"""Bring events to a developer's laptop: follow a running Framehook from outside, and post what happens to a local URL.

The cursor moves past an event when that was handled, and every connection begins at the cursor: whatever is killed or cut
off meanwhile, each event is handled once and in order. Nothing is opened to the world for it: both connections go out.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import httpx
import msgspec
from httpx_sse import SSEError, aconnect_sse

from app.backoff import exponential
from app.deliveries.signing import SECRET_PREFIX, signed_headers
from app.errors import StartupError
from app.version import version

FORWARD_SECONDS: Final = 15.0
SILENCE_SECONDS: Final = 45.0
"""A stream says something every 15 seconds; one that is silent for so long is dead."""

CONNECT_SECONDS: Final = 10.0
FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 30.0
PAGE_SIZE: Final = 1000

MAY_PASS: Final = frozenset({408, 429})
"""Refusals that another try may not meet, besides all of 500 and above."""


class Subject(msgspec.Struct):
    """What an event is about, as far as it is shown."""

    id: Any = None


class Event(msgspec.Struct):
    """What is shown of an event, and what its headers need. The rest is passed on unread."""

    id: UUID
    type: str
    timestamp: datetime
    data: Subject


class Page(msgspec.Struct, rename="camel"):
    """A page of the feed, its events as they were written."""

    events: list[msgspec.Raw]
    next_cursor: str
    has_more: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a delivery: the status it was answered with, or the error, and how long that took."""

    status: int | None
    error: str | None
    milliseconds: int


Handle = Callable[[Event, bytes], Awaitable[bool | None]]
"""Does something with an event; True says that no other is wanted."""

Note = Callable[[str], None]


def open_client(url: str, key: str | None = None) -> httpx.AsyncClient:
    """A client of the Framehook at a URL, or without a key of anything there; raises StartupError for what is no URL."""
    if key is not None and not (key.isascii() and key.isprintable()):
        raise StartupError("the key has characters that no key has")
    host = check_url(url, "--url").host
    return httpx.AsyncClient(
        base_url=url.rstrip("/"),
        headers={"User-Agent": f"Framehook/{version()}"} | ({} if key is None else {"X-API-Key": key}),
        timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
        # A company's proxy may lead to a service elsewhere, but never to one on this machine.
        trust_env=host not in ("127.0.0.1", "localhost", "::1"),
    )


class Source:
    """The events of a Framehook, at one path of it, which are followed until it refuses to go on."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        name: str,
        *,
        path: str = "/v1/events",
        types: str | None = None,
        since: datetime | None = None,
        note: Note,
        greets: bool = True,
    ) -> None:
        """`name`: what it is called in what is noted. `since` None: events from now on. `greets`: success is noted too."""
        self._http, self._name, self._path = http, name, path
        self._note, self._greets = note, greets
        self._types = {"types": types} if types else {}
        self._since = since
        self._cursor: str | None = None
        self._failures = 0

    async def follow(self, handle: Handle) -> None:
        """Hand over one event after the other, connecting anew as often as need be, until no other is wanted or to come.

        Raises StartupError when refused.
        """
        while True:
            try:
                if self._since is not None and await self._catch_up(handle, self._since):
                    return
                if await self._stream(handle):
                    return
                reason = "the stream ended"
            except SSEError:
                raise self._foreign() from None
            except httpx.RequestError as error:
                reason = explain(error)
            except _Away as away:
                reason = str(away)
            self._failures += 1
            seconds = exponential(
                self._failures, first=FIRST_WAIT_SECONDS, most=LONGEST_WAIT_SECONDS, spread=0, jitter=0
            )
            self._note(f"{self._name}: {reason}. Trying again in {seconds:g} s.")
            await asyncio.sleep(seconds)

    async def _catch_up(self, handle: Handle, since: datetime) -> bool:
        """Read the feed from its oldest event to its end, and hand over what happened from a time on.

        True when no other event is wanted.
        """
        more = True
        while more:
            begin = {} if self._cursor is None else {"after": self._cursor}
            response = await self._http.get(self._path, params={**self._types, **begin, "limit": PAGE_SIZE})
            await self._check(response)
            try:
                page = msgspec.json.decode(response.content, type=Page)
            except msgspec.DecodeError:
                raise self._foreign() from None
            for raw in page.events:
                event, body = self._read(bytes(raw))
                if event.timestamp >= since and await handle(event, body):
                    return True
            self._cursor, more = page.next_cursor, page.has_more
            self._failures = 0
        self._since = None
        return False

    async def _stream(self, handle: Handle) -> bool:
        """Hand over what happens until the connection ends; True when no other event is wanted, or will ever come."""
        headers = {} if self._cursor is None else {"Last-Event-ID": self._cursor}
        connecting = aconnect_sse(self._http, "GET", f"{self._path}/stream", params=self._types, headers=headers)
        async with connecting as source:
            if source.response.status_code == 204:
                return True
            await self._check(source.response)
            heard = False
            async with aclosing(source.aiter_sse()) as messages:
                async for message in messages:
                    if not heard:
                        heard, self._failures = True, 0
                        if self._greets:
                            self._note(f"Listening to {self._name}.")
                    if message.data and await handle(*self._read(message.data.encode())):
                        return True
                    self._cursor = message.id or self._cursor
        return False

    def _read(self, body: bytes) -> tuple[Event, bytes]:
        try:
            return msgspec.json.decode(body, type=Event), body
        except msgspec.DecodeError:
            raise self._foreign() from None

    def _foreign(self) -> StartupError:
        return StartupError(f"{self._name} does not answer as Framehook does")

    async def _check(self, response: httpx.Response) -> None:
        """Raise _Away where another try may help, StartupError where none will."""
        status = response.status_code
        if status == 200:
            return
        await response.aread()
        if status >= 500 or status in MAY_PASS:
            raise _Away(f"it answered {status}")
        said = error_in(response) or "it does not answer as Framehook does"
        if status == 410:
            said += "; start again without --replay-since"
        raise StartupError(f"{self._name} answered {status}: {said}")


class Forwarder:
    """A URL that events are posted to, signed as deliveries are. What fails is told and not tried again."""

    def __init__(self, url: str, secret: str) -> None:
        check_url(url, "--forward")
        self._url, self._secret = url, check_secret(secret)
        # A server under development is restarted all the time, which connections that are kept would not survive.
        self._http = httpx.AsyncClient(
            headers={"User-Agent": f"Framehook/{version()}"},
            timeout=FORWARD_SECONDS,
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
        )

    async def post(self, event: Event, body: bytes) -> Outcome:
        """Deliver an event once."""
        headers = signed_headers(event.id, datetime.now(UTC), body, [self._secret])
        status = error = None
        began = time.monotonic()
        try:
            async with asyncio.timeout(FORWARD_SECONDS):
                answer = await self._http.post(
                    self._url, content=body, headers={"Content-Type": "application/json", **headers}
                )
            status = answer.status_code
        except (TimeoutError, httpx.TimeoutException):
            error = f"no answer within {FORWARD_SECONDS:g} s"
        except httpx.RequestError as failure:
            error = explain(failure)
        return Outcome(status, error, round((time.monotonic() - began) * 1000))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()


def check_url(text: str, option: str) -> httpx.URL:
    """The URL that an option was given; raises StartupError where it is none that can be called."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise StartupError(f"{option} must be a URL such as http://localhost:3000, not {text}")
    return url


def check_secret(secret: str) -> str:
    """The same secret; raises StartupError, which does not repeat it, where nothing could be signed with it."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
        key = b""
    if not (key and secret.startswith(SECRET_PREFIX)):
        raise StartupError(f"--secret must be {SECRET_PREFIX} and Base64 after it, as subscriptions show theirs")
    return secret


def read_time(text: str) -> datetime:
    """A time in ISO 8601, in UTC where it names no zone; raises StartupError."""
    try:
        time_read = datetime.fromisoformat(text)
    except ValueError:
        raise StartupError(f"--replay-since must be a time such as 2026-11-25T09:30:00Z, not {text}") from None
    return time_read if time_read.tzinfo else time_read.replace(tzinfo=UTC)


def explain(error: httpx.RequestError) -> str:
    """A failed request in a few words."""
    return " ".join(str(error).split()) or type(error).__name__


def error_in(response: httpx.Response) -> str | None:
    """The text of an error in Framehook's envelope, with what it says of single fields; None where there is none."""
    try:
        body = msgspec.json.decode(response.content, type=_Refusal)
    except msgspec.DecodeError:
        return None
    return "; ".join([body.error, *(f"{name}: {', '.join(texts)}" for name, texts in body.details.items())])


class _Refusal(msgspec.Struct):
    error: str
    details: dict[str, list[str]] = {}


class _Away(Exception):
    """It does not answer now, and may later."""
