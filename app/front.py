"""The application's front door: hot routes go straight to their handlers, everything else goes through the framework.

FastAPI's layers cost several times what such a route does itself. Its handlers, errors and documentation are the same on
both ways: a hot route is a route of FastAPI's too, which tells what it is and answers what this door does not take.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import structlog
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http import json_response

log = structlog.get_logger()

Handler = Callable[[Request], Awaitable[Response]]

REQUEST_ID: Final = b"x-request-id"
LONGEST_REQUEST_ID: Final = 200


@dataclass(frozen=True, slots=True)
class _Hot:
    """A route that is answered here. `names`: what its path's last segments are called, in their order."""

    handler: Handler
    route: APIRoute
    names: tuple[str, ...]


class Front(FastAPI):
    """FastAPI, and before it the hot routes. Whatever they are asked in another way is FastAPI's to answer."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._hot: tuple[dict[tuple[str, str], _Hot], ...] = ({}, {}, {})  # by how many parameters they have
        self._numbered = RequestIds(self._answer)
        self.add_middleware(RequestIds)

    def add_hot_route(self, method: str, path: str, handler: Handler, **reference: Any) -> None:
        """Add a route whose path has all its parameters at its end, each a whole segment."""
        self.add_api_route(path, handler, methods=[method], **reference)
        route = self.router.routes[-1]
        assert isinstance(route, APIRoute)
        fixed, *names = path.split("/{")
        self._hot[len(names)][method, fixed] = _Hot(handler, route, tuple(name.removesuffix("}") for name in names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a hot route, or have FastAPI answer."""
        if scope["type"] == "http" and self._find(scope):
            await self._numbered(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _find(self, scope: Scope) -> bool:
        """Whether a request is for a hot route, which is noted in its scope as the framework would."""
        method, path = scope["method"], scope["path"]
        for count, routes in enumerate(self._hot):
            fixed, *values = path.rsplit("/", count)
            hot = routes.get((method, fixed))
            if hot is not None and all(values):
                params = dict(zip(hot.names, values, strict=True))
                scope.update(app=self, route=hot.route, path_params=params, endpoint=hot.handler)
                return True
        return False

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await scope["endpoint"](request)
        except Exception as error:  # noqa: BLE001 - the application's own handlers know it, or it is raised anew
            response = await self._render(request, error)
        await response(scope, receive, send)

    async def _render(self, request: Request, error: Exception) -> Response:
        """What the application's own handlers of errors answer; raises the error where it has none for it."""
        for kind in type(error).__mro__:
            if kind in self.exception_handlers:
                render = cast(Callable[[Request, Exception], Awaitable[Response]], self.exception_handlers[kind])
                return await render(request, error)
        raise error


class RequestIds:
    """Give every answer an `X-Request-Id`, the caller's own where it sent one, and render what nobody expected."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")[:LONGEST_REQUEST_ID]
        request_id = request_id or os.urandom(16).hex().encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode("latin-1")
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                others = [pair for pair in message["headers"] if pair[0] != REQUEST_ID]
                message["headers"] = [*others, (REQUEST_ID, request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.info("request.abandoned", request_id=scope["state"]["request_id"])
        except Exception:
            log.exception(
                "request.failed",
                request_id=scope["state"]["request_id"],
                route=getattr(scope.get("route"), "path", None),
            )
            if not started:
                await json_response({"error": "Internal error"}, status=500)(scope, receive, send_with_id)
