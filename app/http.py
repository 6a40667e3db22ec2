"""What every route needs: its context, its body within a limit, and JSON both ways."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.auth import Caller, KeyRing
from app.context import Context
from app.errors import Invalid, TooLarge


def context(request: Request) -> Context:
    """The context that the application was started with."""
    return cast(Context, request.app.state.ctx)


def request_id(request: Request) -> str:
    """What this request's answer and its traces upstream are known by."""
    return cast(str, request.state.request_id)


def header(request: Request, name: bytes) -> str | None:
    """The first header of this name, which is in lower case, without taking all of them apart."""
    for each, value in request.scope["headers"]:
        if each == name:
            return cast(bytes, value).decode("latin-1")
    return None


async def caller(request: Request, *scopes: str) -> Caller:
    """Whoever sent this request, with one of the scopes it takes. Raises Unauthenticated, Forbidden or TooMany."""
    return await caller_by_key(request, header(request, b"x-api-key") or _bearer_key(request), *scopes)


def _bearer_key(request: Request) -> str:
    scheme, _, key = (header(request, b"authorization") or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


async def caller_by_id(request: Request, key_id: UUID, *scopes: str) -> Caller:
    """The same for a key that a ticket stands for."""
    return await cast(KeyRing, request.app.state.keys).caller_by_id(request, key_id, *scopes)


async def caller_by_key(request: Request, key: str, *scopes: str) -> Caller:
    """The same for a key that came in another way than by a header."""
    return await cast(KeyRing, request.app.state.keys).caller_by_key(request, key, *scopes)


async def read_body(request: Request, *, largest: int) -> bytes:
    """The raw body; raise TooLarge as soon as it exceeds so many bytes."""
    declared = header(request, b"content-length") or ""
    if declared.isdecimal() and int(declared) > largest:
        raise TooLarge(f"The body may have at most {largest:,} bytes")
    body, more = bytearray(), True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        body += message.get("body", b"")
        if len(body) > largest:
            raise TooLarge(f"The body may have at most {largest:,} bytes")
        more = message.get("more_body", False)
    return bytes(body)


async def read_object(request: Request, *, largest: int) -> dict[str, Any]:
    """The body as a JSON object, an empty one where there is no body; raises Invalid for anything else."""
    raw = await read_body(request, largest=largest)
    try:
        return msgspec.json.decode(raw, type=dict[str, Any]) if raw else {}
    except msgspec.ValidationError as error:
        raise Invalid(f"The body must be a JSON object: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid("The body is not valid JSON") from None


def tagged_response(request: Request, body: Any) -> Response:
    """JSON with an `ETag` of its bytes; 304 without them where the caller has them already (RFC 9110, 13.1.2)."""
    encoded = msgspec.json.encode(body)
    tag = f'"{hashlib.blake2b(encoded, digest_size=16).hexdigest()}"'
    known = header(request, b"if-none-match")
    if known is not None and (known.strip() == "*" or tag in known):
        return Response(status_code=304, headers={"ETag": tag})
    return _Json(encoded, 200, {"ETag": tag})


def json_response(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON, encoded once."""
    return _Json(msgspec.json.encode(body), status, headers or {})


class _Json(Response):
    """Starlette's, whose own way to its headers takes as long as to encode what is in most answers."""

    def __init__(self, body: bytes, status: int, headers: Mapping[str, str]) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [
            *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()),
            (b"content-length", str(len(body)).encode()),
            (b"content-type", b"application/json"),
        ]
