"""Pass a request up to the upstream and its answer down, once, piece by piece.

Only what is listed here crosses: the caller's key, its cookies and whatever else it sent stay with us, ours goes up.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.apiframe.client import Passed, Passing
from app.apiframe.errors import Unclear, Unreached
from app.auth import Caller
from app.context import SANDBOX
from app.errors import BadGateway, TooLarge, TooSlow, Unavailable
from app.http import context, request_id

log = structlog.get_logger()

LONGEST_PAUSE_SECONDS: Final = 30.0
"""A caller that sends nothing for so long in the middle of its body is given up: it holds a connection upstream."""

LONGEST_ANSWER_SECONDS: Final = 300.0
"""The same of one that does not read."""

READ_AHEAD: Final = 1024 * 1024
"""An answer of at most so many bytes is whole before any of it is passed on, so that one that breaks off is a clean 502."""

_GOES_UP: Final = frozenset({"accept", "content-type", "if-none-match", "if-modified-since"})
_COMES_BACK: Final = frozenset(
    {
        *(b"content-type", b"content-encoding", b"content-language", b"content-disposition"),
        *(b"cache-control", b"expires", b"etag", b"last-modified", b"vary", b"age", b"retry-after"),
    }
)
_HARMLESS: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
]
"""An upstream's page of HTML must do nothing at our address."""

_NAMES_KEY: Final = re.compile(r"\bkeys?\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer of the upstream, read to its end: JSON, if it is what was expected."""

    status: int
    headers: list[tuple[bytes, bytes]]
    content: bytes

    def response(self) -> Response:
        """The answer as it is passed on."""
        response = Response(self.content, self.status)
        response.raw_headers.extend(self.headers)
        return response


class Body:
    """A request's body, piece by piece. Reading it raises TooLarge, TooSlow, or ClientDisconnect."""

    def __init__(self, request: Request, largest: int) -> None:
        self._request = request
        self._largest = largest
        self.size = 0
        declared = request.headers.get("content-length", "")
        self.declared = int(declared) if declared.isascii() and declared.isdecimal() else None
        if self.declared is not None and self.declared > largest:
            raise self._too_large()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = self._request.stream()
        while True:
            try:
                async with asyncio.timeout(LONGEST_PAUSE_SECONDS):
                    piece = await anext(pieces, None)
            except TimeoutError:
                raise TooSlow() from None
            if piece is None:
                return
            self.size += len(piece)
            if self.size > self._largest:
                raise self._too_large()
            if piece:
                yield piece

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body may have at most {self._largest:,} bytes")


def passing_of(request: Request, path: str, *, largest: int | None = None) -> Passing:
    """A caller's request as it goes up, with its body where `largest` says how many bytes that may have.

    Raises TooLarge at once where the body's length is declared.
    """
    headers = [
        (name.encode(), value.encode("latin-1"))
        for name, value in request.headers.items()
        if name in _GOES_UP and _is_clean(value)
    ]
    headers.append((b"accept-encoding", b"identity"))
    if _is_clean(request_id(request)):
        headers.append((b"x-request-id", request_id(request).encode("latin-1")))
    body = None if largest is None else Body(request, largest)
    if body is not None and body.declared is not None:
        headers.append((b"content-length", str(body.declared).encode()))
    return Passing(request.method, path, headers, body)


async def pass_through(request: Request, who: Caller | None, passing: Passing) -> Response:
    """Pass a request up and answer as the upstream does. Where anybody may ask, `who` is None, and our key stays here too.

    Raises BadGateway, Unavailable, and what the body raises.
    """
    async with AsyncExitStack() as stack:
        passed, ahead, is_whole = await stack.enter_async_context(_opened(request, who, passing))
        if is_whole:
            return Whole(passed.status, _cleaned(passed), ahead).response()
        return _Streamed(passed, ahead, stack.pop_all())


async def ask(request: Request, who: Caller, passing: Passing) -> Whole:
    """The same for an answer that is to be read here; one that is too long for it is none. Raises as `pass_through` does."""
    async with _opened(request, who, passing) as (passed, ahead, is_whole):
        if not is_whole:
            raise BadGateway("The upstream's answer is too long")
        return Whole(passed.status, _cleaned(passed), ahead)


@asynccontextmanager
async def _opened(request: Request, who: Caller | None, passing: Passing) -> AsyncIterator[tuple[Passed, bytes, bool]]:
    """The answer, with its beginning and whether that is all of it. Log what became of the request, in one line."""
    ctx = context(request)
    began = time.monotonic()
    said: dict[str, Any] = {"method": passing.method, "route": request.scope["route"].path}
    said |= {"request_id": request_id(request), "team_id": str(who.team_id) if who else None}
    upstream = ctx.at(SANDBOX if who and who.test else ctx.account).upstream
    try:
        async with upstream.stream(ctx.upstream_key if who else None, passing) as passed:
            ahead, is_whole = await _read_ahead(passed.pieces, ctx.settings.upstream_timeout_seconds)
            sent = passing.body.size if isinstance(passing.body, Body) else 0
            said |= {"status": passed.status, "sent_bytes": sent, "seconds": round(time.monotonic() - began, 3)}
            if is_whole and _blames_our_key(passed.status, ahead):
                log.error("relay.key_refused", **said, answer=ahead[:200].decode(errors="replace"))
                raise BadGateway("The upstream refuses this service's key")
            log.info("relay.passed", **said, upstream_request_id=passed.headers.get("x-request-id"))
            yield passed, ahead, is_whole
    except Unclear as error:
        log.warning("relay.failed", **said, reason=error.reason, sent=not isinstance(error, Unreached))
        text = error.reason[:1].upper() + error.reason[1:]
        if isinstance(error, Unreached):
            raise Unavailable(text, retry_after_seconds=int(error.retry_after_seconds or 1)) from None
        raise BadGateway(text) from None


async def _read_ahead(pieces: AsyncIterator[bytes], seconds: float) -> tuple[bytes, bool]:
    """The beginning of an answer, and whether that is all of it."""
    ahead: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while size <= READ_AHEAD:
                piece = await anext(pieces, None)
                if piece is None:
                    return b"".join(ahead), True
                ahead.append(piece)
                size += len(piece)
    except TimeoutError:
        raise Unclear(f"the upstream's answer did not end within {seconds:g} s") from None
    return b"".join(ahead), False


class _Streamed(StreamingResponse):
    """An answer that is passed on while it comes; however that ends, the upstream's connection is let go."""

    def __init__(self, passed: Passed, ahead: bytes, connection: AsyncExitStack) -> None:
        super().__init__(self._pieces(passed, ahead), passed.status)
        length = passed.headers.get("content-length")
        if length is not None:
            self.headers["Content-Length"] = length
        self.raw_headers.extend(_cleaned(passed))
        self._connection = connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._connection, asyncio.timeout(LONGEST_ANSWER_SECONDS):
            await super().__call__(scope, receive, send)

    @staticmethod
    async def _pieces(passed: Passed, ahead: bytes) -> AsyncIterator[bytes]:
        yield ahead
        async for piece in passed.pieces:
            yield piece


def _cleaned(passed: Passed) -> list[tuple[bytes, bytes]]:
    """The headers that come back, the upstream's own id of this request under another name than ours."""
    headers = [(name.lower(), value) for name, value in passed.headers.raw if name.lower() in _COMES_BACK]
    upstream_id = passed.headers.get("x-request-id")
    if upstream_id is not None:
        headers.append((b"x-upstream-request-id", upstream_id.encode("latin-1", "replace")))
    return headers + _HARMLESS


def _blames_our_key(status: int, content: bytes) -> bool:
    """Whether the upstream speaks of our key: the caller's own must not look wrong. A 403 may be about the request."""
    if status != 403:
        return status == 401
    try:
        error = msgspec.json.decode(content, type=dict[str, Any]).get("error")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return isinstance(error, str) and _NAMES_KEY.search(error) is not None


def _is_clean(value: str) -> bool:
    """Whether a header's value may be sent on: what a caller puts into one is not for us to repair."""
    return bool(value) and value == value.strip() and not _has_control(value)


def _has_control(value: Iterable[str]) -> bool:
    return any(ord(char) < 32 or ord(char) == 127 for char in value)
