"""Calls to the upstream. Every call has one total deadline and ends in an answer, a Refusal or an Unclear."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from app.apiframe.errors import Refusal, Unclear
from app.apiframe.wire import read_json, storable

LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
CONNECTIONS: Final = 100
SUBMISSIONS_AT_ONCE: Final = 60
"""So many of the connections carry submissions at most; the others are for asking."""

_NOT_DEFINITE: Final = {408, 425}
"""4xx that do not say what became of the request (RFC 9110 15.5.9, RFC 8470)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx: its JSON object, the upstream's `X-Request-Id`, and its bytes."""

    payload: dict[str, Any]
    request_id: str | None
    raw: bytes = field(default=b"", repr=False)


class Apiframe:
    """The upstream at one address, over one keep-alive connection pool."""

    def __init__(self, base_url: str, *, timeout_seconds: float) -> None:
        self.base_url = base_url
        self._timeout_seconds = timeout_seconds
        self._submitting = 0
        self._http = httpx.AsyncClient(
            base_url=base_url,
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            headers={"User-Agent": "framehook"},
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
            raise Unclear(f"the upstream cannot be reached: {str(error) or type(error).__name__}") from error
        return _read(response)


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
