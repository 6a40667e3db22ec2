"""What becomes of a request when the upstream is slow, away or dies in the middle, and when its caller does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from app.apiframe import client
from app.relay import passing
from app.relay.passing import READ_AHEAD
from tests.harness import Service, eventually, refused
from tests.outbound.servers import pass_time
from tests.relay.upstreams import FORM, PNG, Upstream, form, head, pieces, plain, zeros

Facing = Callable[..., Any]


async def test_a_slow_upstream_is_a_502_within_the_timeout(facing: Facing, upstream: Upstream) -> None:
    service = await facing(upstream.url, upstream_timeout_seconds=0.5)
    apiframe, released = _apiframe(service), asyncio.Event()
    apiframe._http.timeout = httpx.Timeout(60, read=0.5)  # a connection that takes long to be made is a 503

    async def hang(request: Any) -> Any:
        await released.wait()
        return await plain()(request)

    upstream.answer = hang
    for method, path in (("GET", "/v2/models"), ("POST", "/v2/uploads")):
        answer = await service.caller.http.request(method, path, content=form("file", PNG), headers=FORM)
        refused(answer, 502)
    apiframe._timeout_seconds, apiframe._http.timeout = 60, httpx.Timeout(60)
    upstream.answer = pieces(READ_AHEAD, seconds=0.2)
    assert "did not end within 0.5 s" in refused(await service.caller.http.get("/v2/models"), 502)["error"]
    released.set()


async def test_a_slow_body_is_no_fault_of_the_upstream(
    facing: Facing, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "LONGEST_PAUSE_SECONDS", 300)
    service, wait = await facing(upstream.url, upstream_timeout_seconds=30), pass_time()
    body = form("file", PNG + bytes(100))

    async def in_halves() -> AsyncIterator[bytes]:
        yield body[:60]
        await eventually(lambda: asyncio.sleep(0, upstream.asked and upstream.asked[0].body))
        wait(35)
        await asyncio.sleep(0.01)  # what is overdue by then strikes
        yield body[60:]

    answer = await service.caller.http.post("/v2/uploads", content=in_halves(), headers=FORM)
    assert answer.status_code == 200
    assert bytes(upstream.asked[0].body) == body


async def test_a_caller_that_stops_in_the_middle_is_given_up(
    facing: Facing, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await facing(upstream.url)
    host, _, port = service.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head(service, "uploads", 1000))
    await eventually(lambda: asyncio.sleep(0, upstream.asked))
    monkeypatch.setattr(passing, "LONGEST_PAUSE_SECONDS", 0.3)
    writer.write(bytes(500))
    async with asyncio.timeout(60):
        said = await reader.read()  # until the connection is closed
    assert b" 408 " in said.split(b"\r\n")[0]
    writer.close()
    assert not upstream.asked[0].whole


async def test_an_upstream_that_is_not_there_was_sent_nothing(facing: Facing, upstream: Upstream) -> None:
    service = await facing("http://127.0.0.1:1")
    for method, path in (("GET", "/v2/models"), ("POST", "/v2/uploads")):
        answer = await service.caller.http.request(method, path, content=form("file", PNG), headers=FORM)
        refused(answer, 503)
        assert int(answer.headers["Retry-After"]) > 0


async def test_an_answer_that_breaks_off_early_is_a_502(facing: Facing, upstream: Upstream) -> None:
    service = await facing(upstream.url)
    for cut_after in (0, 65_536):
        upstream.answer = pieces(500_000, cut_after=cut_after)
        assert "broke off" in refused(await service.caller.http.get("/v2/models"), 502)["error"]


async def test_an_answer_that_breaks_off_late_does_not_look_whole(facing: Facing, upstream: Upstream) -> None:
    service = await facing(upstream.url)
    upstream.answer = pieces(3 * READ_AHEAD, cut_after=2 * READ_AHEAD)
    with pytest.raises(httpx.RemoteProtocolError):
        await service.caller.http.get("/v2/models")
    upstream.answer = pieces(3 * READ_AHEAD)
    answer = await service.caller.http.get("/v2/models")
    assert answer.headers["Content-Length"] == str(3 * READ_AHEAD) == str(len(answer.content))
    assert answer.content == b"".join(bytes([number]) * 65_536 for number in range(48))


async def test_an_upstream_that_dies_in_the_middle_of_an_upload_is_a_502(facing: Facing, upstream: Upstream) -> None:
    service = await facing(upstream.url)
    upstream.reads = False

    async def die(request: Any) -> Any:
        await request.content.readany()
        request.transport.abort()
        return await plain()(request)

    upstream.answer = die
    refused(await service.caller.http.post("/v2/uploads", content=zeros(20_000_000), headers=FORM), 502)
    assert len(upstream.asked) == 1, "what may have arrived is not sent again"


async def test_a_caller_who_leaves_in_the_middle_ends_the_upload(facing: Facing, upstream: Upstream) -> None:
    service = await facing(upstream.url)
    host, _, port = service.url.removeprefix("http://").partition(":")
    for path in ("uploads", "loras"):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head(service, path, 1000) + bytes(500))
        await writer.drain()
        seen = len(upstream.asked)
        await eventually(lambda before=seen: asyncio.sleep(0, len(upstream.asked) > before))  # type: ignore[misc]
        writer.transport.abort()
    await eventually(_all_free(service))
    assert [asked.whole for asked in upstream.asked] == [False, False]
    assert await service.rows("SELECT * FROM belongings") == []
    assert (await service.caller.http.get("/v2/models")).status_code == 200


async def test_uploads_have_a_share_of_the_connections_and_questions_another(
    facing: Facing, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "UPLOADS_AT_ONCE", 2)
    service = await facing(upstream.url, upstream_timeout_seconds=30)
    released = asyncio.Event()

    async def held() -> AsyncIterator[bytes]:
        yield b"x"
        await released.wait()

    http = service.caller.http
    slow = [asyncio.create_task(http.post("/v2/uploads", content=held(), headers=FORM)) for _ in range(2)]
    await eventually(lambda: asyncio.sleep(0, len(upstream.asked) == 2))
    with monkeypatch.context() as patch:
        patch.setattr(_apiframe(service), "_timeout_seconds", 0.5)
        refused(await http.post("/v2/uploads", content=b"x", headers=FORM), 503)
    assert (await http.get("/v2/models")).status_code == 200
    released.set()
    assert [(await one).status_code for one in slow] == [200, 200]
    assert (await http.post("/v2/uploads", content=b"x", headers=FORM)).status_code == 200


def _apiframe(service: Service) -> client.Apiframe:
    upstream = service.ctx.upstream
    assert isinstance(upstream, client.Apiframe)
    return upstream


def _all_free(service: Service) -> Callable[[], Any]:
    async def look() -> bool:
        return _apiframe(service)._uploads._value == client.UPLOADS_AT_ONCE

    return look
