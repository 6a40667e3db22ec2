"""The shapes of answers: the vendor's envelope of errors, its request ids, and connections that are cut instead."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CUT = "simulator.cut"


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write it without spaces, as JavaScript does."""
        return msgspec.json.encode(content)


class Cut(Response):
    """No answer: the connection is dropped."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Cut where the server lets us; elsewhere leave without an answer, which servers take for a failure."""
        cut: Callable[[], Awaitable[None]] = scope[_CUT]
        await cut()


class Refusal(Exception):
    """An answer that ends a request early."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def refusal(status: int, text: str, *, headers: dict[str, str] | None = None, **extra: Any) -> Refusal:
    """Make the vendor's error envelope: `{"error": text, …}`."""
    return Refusal(Json({"error": text, **extra}, status, headers=headers))


def invalid(details: dict[str, list[str]]) -> Refusal:
    """Make the answer to a request that is not well-formed."""
    return refusal(400, "Validation failed", details=details)


def too_many(text: str, retry_after_seconds: int) -> Refusal:
    """Make a 429."""
    return refusal(429, text, headers={"Retry-After": str(retry_after_seconds)})


def insufficient(required: int, available: int) -> Refusal:
    """Make a 402 with its numbers."""
    return refusal(402, "Insufficient credits", creditsRequired=required, creditsAvailable=available)


def upstream_error(status: int) -> Refusal:
    """Make a temporary failure."""
    text = {502: "Bad gateway", 503: "Service temporarily unavailable"}
    return refusal(status, text.get(status, "Internal server error"))


async def render_refusal(_: Request, error: Exception) -> Response:
    """Answer with what a refusal carries."""
    if not isinstance(error, Refusal):
        raise error
    return error.response


async def render_http(_: Request, error: Exception) -> Response:
    """Answer unknown paths and methods in the same envelope."""
    if not isinstance(error, HTTPException):
        raise error
    return Json({"error": error.detail}, error.status_code, headers=dict(error.headers or {}))


async def render_nothing(_: Request, __: Exception) -> Response:
    """Answer a caller that left in the middle of its request, as one that is killed does."""
    return Cut()


class Envelope:
    """The outermost layer: every answer carries `X-Request-Id`, and a connection can be cut."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with both."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{uuid.uuid4().hex}".encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        async def cut() -> None:
            # uvicorn's `send` is a method of the request's cycle, which holds the connection.
            transport = getattr(getattr(send, "__self__", None), "transport", None)
            if transport is not None:
                transport.abort()
                while (await receive())["type"] != "http.disconnect":
                    pass

        scope[_CUT] = cut
        await self.app(scope, receive, send_with_id)
