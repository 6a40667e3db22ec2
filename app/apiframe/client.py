"""Calls to the upstream. Every call has one total deadline and ends in an answer, a Refusal or an Unclear."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Protocol

import httpx

from app.apiframe.errors import Refusal, Unclear, Unreached
from app.apiframe.wire import read_json, storable

LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
CONNECTIONS: Final = 100
SUBMISSIONS_AT_ONCE: Final = 60
"""So many of the connections carry submissions at most; the others are for asking, and for what is passed through."""

UPLOADS_AT_ONCE: Final = 12
QUESTIONS_AT_ONCE: Final = 8
"""So many of the connections carry what callers have passed through, with and without a body that may come slowly."""

LONGEST_UPLOAD_SECONDS: Final = 900.0
"""Until the answer begins; the body comes as fast as its sender sends it."""

_NOT_DEFINITE: Final = {408, 425}
"""4xx that do not say what became of the request (RFC 9110 15.5.9, RFC 8470)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx: its JSON object, the upstream's `X-Request-Id`, and its bytes."""

    payload: dict[str, Any]
    request_id: str | None
    raw: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Passing:
    """A request that is passed through as it is. `path` is escaped, its query part of it; `body` is read once."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: AsyncIterable[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Passed:
    """What came back, whatever its status: the bytes are the upstream's own, still encoded as it encoded them."""

    status: int
    headers: httpx.Headers
    pieces: AsyncIterator[bytes]


class Upstream(Protocol):
    """Whoever runs jobs for us: Apiframe, or what stands in its place."""

    @property
    def free_submissions(self) -> int: ...
    async def submit(self, api_key: str, operation: str, body: bytes, idempotency_key: str) -> Answer: ...
    async def get_job(self, api_key: str, upstream_id: str) -> Answer: ...
    async def list_jobs(self, api_key: str, *, limit: int = 100, cursor: str | None = None) -> Answer: ...
    async def me(self, api_key: str) -> Answer: ...
    async def document(self) -> Answer: ...
    async def models(self) -> Answer: ...
    def stream(self, api_key: str | None, passing: Passing) -> AbstractAsyncContextManager[Passed]: ...
    async def close(self) -> None: ...


@cache
def _trust() -> ssl.SSLContext:
    """What httpx trusts by itself, read once: every client would read all certificates anew."""
    return httpx.create_ssl_context()


class Apiframe:
    """The upstream at one address, over one keep-alive connection pool."""

    def __init__(self, base_url: str, *, timeout_seconds: float) -> None:
        self.base_url = base_url
        self._timeout_seconds = timeout_seconds
        self._submitting = 0
        self._uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)
        self._questions = asyncio.Semaphore(QUESTIONS_AT_ONCE)
        self._http = httpx.AsyncClient(
            base_url=base_url,
            timeout=timeout_seconds,
            verify=_trust(),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            headers={"User-Agent": "framehook"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # one answer's cookie is no other call's affair
        )

    @property
    def free_submissions(self) -> int:
        """How many more submissions can start at once: those beyond would wait for a connection while their time runs."""
        return max(SUBMISSIONS_AT_ONCE - self._submitting, 0)

    async def submit(self, api_key: str, operation: str, body: bytes, idempotency_key: str) -> Answer:
        """Send one generation. Raises Refusal or Unclear; an answer without a job id is Unclear."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        self._submitting += 1
        try:
            answer = await self._call("POST", f"/v2/{operation}", api_key, content=body, headers=headers)
        finally:
            self._submitting -= 1
        if not isinstance(answer.payload.get("jobId"), str):
            raise Unclear("the upstream's answer names no job")
        return answer

    async def get_job(self, api_key: str, upstream_id: str) -> Answer:
        """Ask after one job. A job unknown to this key is a Refusal with status 404."""
        return await self._call("GET", f"/v2/jobs/{upstream_id}", api_key)

    async def list_jobs(self, api_key: str, *, limit: int = 100, cursor: str | None = None) -> Answer:
        """One page of the account's jobs, newest first."""
        params: dict[str, Any] = {"limit": limit, "scope": "user"}
        if cursor is not None:
            params["cursor"] = cursor
        return await self._call("GET", "/v2/jobs", api_key, params=params)

    async def me(self, api_key: str) -> Answer:
        """Who this key is; `team.maxConcurrentJobs` may be in it."""
        return await self._call("GET", "/v2/me", api_key)

    async def document(self) -> Answer:
        """The upstream's OpenAPI document, which is public."""
        return await self._call("GET", "/v2/openapi.json", None)

    async def models(self) -> Answer:
        """The upstream's list of models, which is public."""
        return await self._call("GET", "/v2/models", None)

    @asynccontextmanager
    async def stream(self, api_key: str | None, passing: Passing) -> AsyncIterator[Passed]:
        """Pass a request up and its answer down, piece by piece, never twice. Raises Unreached, or Unclear once sent.

        What the body raises comes through, and ends the call in the middle. The pieces raise Unclear.
        """
        share = self._questions if passing.body is None else self._uploads
        await _enter(share, self._timeout_seconds)
        try:
            response = await self._begin(api_key, passing)
            try:
                yield Passed(response.status_code, response.headers, _pieces(response))
            finally:
                await response.aclose()
        finally:
            share.release()

    async def _begin(self, api_key: str | None, passing: Passing) -> httpx.Response:
        headers = [*passing.headers, *([(b"X-API-Key", api_key.encode())] if api_key else [])]
        request = self._http.build_request(passing.method, passing.path, headers=headers, content=passing.body)
        seconds = self._timeout_seconds if passing.body is None else LONGEST_UPLOAD_SECONDS
        try:
            async with asyncio.timeout(seconds):
                return await self._http.send(request, stream=True)
        except TimeoutError:
            raise Unclear(f"the upstream did not answer within {seconds:g} s") from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Unreached(_unreachable(error), retry_after_seconds=5) from error
        except (httpx.HTTPError, AttributeError) as error:  # AttributeError: see `_call`
            raise Unclear(_unreachable(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, method: str, path: str, api_key: str | None, **request: Any) -> Answer:
        headers = {**request.pop("headers", {}), **({"X-API-Key": api_key} if api_key else {})}
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._http.request(method, path, headers=headers, **request)
        except TimeoutError:
            raise Unclear(f"the upstream did not answer within {self._timeout_seconds:g} s") from None
        except (httpx.HTTPError, AttributeError) as error:
            # On uvloop a connection that is reset as soon as it is made has no socket any more when anyio, below httpx,
            # asks that for its peer: https://github.com/MagicStack/uvloop/issues/560 is the same of a server's side.
            raise Unclear(_unreachable(error)) from error
        return _read(response)


async def _enter(share: asyncio.Semaphore, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await share.acquire()
    except TimeoutError:
        raise Unreached("too many requests are being passed through", retry_after_seconds=1) from None


def _unreachable(error: Exception) -> str:
    return f"the upstream cannot be reached: {str(error) or type(error).__name__}"


async def _pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_raw():
            yield piece
    except httpx.HTTPError as error:
        raise Unclear(f"the upstream's answer broke off: {str(error) or type(error).__name__}") from error


def _read(response: httpx.Response) -> Answer:
    payload = _object(response)
    request_id = response.headers.get("X-Request-Id")
    retry_after = _retry_after_seconds(response)
    if response.is_success:
        if payload is None:
            raise Unclear(f"the upstream's {response.status_code} is not a JSON object")
        return Answer(payload, request_id, response.content)
    if response.is_client_error and response.status_code not in _NOT_DEFINITE:
        body = payload if payload is not None else {"error": storable(response.text[:500]) or response.reason_phrase}
        raise Refusal(response.status_code, body, retry_after_seconds=retry_after, request_id=request_id)
    raise Unclear(f"the upstream answered {response.status_code}", retry_after_seconds=retry_after)


def _object(response: httpx.Response) -> dict[str, Any] | None:
    try:
        value = read_json(response.content)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _retry_after_seconds(response: httpx.Response) -> float | None:
    """`Retry-After` in seconds; its other form, a date, is not used by this upstream and is left out."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), LONGEST_RETRY_AFTER_SECONDS) if value.strip().isdecimal() else None
