"""An application in this process is read part by part, and is left in the middle of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.cli.inprocess import InProcess

URL = "http://framehook.invalid"


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=URL, transport=InProcess(app))


async def test_a_request_arrives_as_it_was_sent() -> None:
    async def echo(request: Request) -> Response:
        told = {"path": request.url.path, "query": request.url.query, "key": request.headers["x-api-key"]}
        return JSONResponse(told | {"body": (await request.body()).decode()}, status_code=202)

    async with client(Starlette(routes=[Route("/a/{b:path}", echo, methods=["POST"])])) as http:
        answer = await http.post("/a/b%2Fc", params={"q": "a&b ü"}, headers={"X-API-Key": "k"}, content=b"{}")

    assert answer.status_code == 202
    assert answer.json() == {"path": "/a/b/c", "query": "q=a%26b+%C3%BC", "key": "k", "body": "{}"}


async def test_parts_are_made_only_as_they_are_taken_and_none_after_the_reader_left() -> None:
    made = []

    async def parts() -> AsyncIterator[bytes]:
        for number in range(1_000_000):
            made.append(number)
            yield b"%d\n" % number

    async with (
        client(Starlette(routes=[Route("/", lambda _: StreamingResponse(parts()))])) as http,
        http.stream("GET", "/") as answer,
    ):
        raw = answer.aiter_raw()
        taken = [await anext(raw) for _ in range(3)]

    assert taken == [b"0\n", b"1\n", b"2\n"]
    assert len(made) < 10


@pytest.mark.parametrize("begun", [True, False])
async def test_an_answer_that_breaks_off_is_an_error_and_no_shorter_answer(begun: bool) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async with client(app) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("/")


async def test_whoever_gives_up_before_the_answer_leaves_nothing_running() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with client(app) as http:
        asking = asyncio.create_task(http.get("/"))
        await begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert ended.is_set()
