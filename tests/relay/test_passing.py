"""A request goes up and its answer comes down: the same bytes, once, and nothing with them that is nobody's affair."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.simulator.server import RunningSimulator
from tests.harness import SIMULATOR_KEY, Service, books, eventually, refused, tell
from tests.relay.upstreams import FILM, FORM, PNG, Fits, Upstream, form, head, plain, slowly, zeros

Facing = Callable[..., Any]
LIMIT = 50 * 1024 * 1024 + 64 * 1024


async def requests(simulator: RunningSimulator, name: str) -> int:
    return int((await books(simulator))["counters"]["requests"].get(name, 0))


# Through the real thing


async def test_models_are_listed_with_and_without_a_key(quiet: Service, fits: Fits) -> None:
    async with httpx.AsyncClient(base_url=quiet.url, trust_env=False, timeout=60) as nobody:
        for http in (quiet.caller.http, nobody):
            answer = await http.get("/v2/models?modality=video")
            assert answer.status_code == 200
            fits(answer.json(), "ModelCatalog")
            assert {model["modality"] for model in answer.json()["models"]} == {"video"}
        body = refused(await nobody.get("/v2/models?modality=smell"), 400)
        assert list(fits(body, "ValidationError")["details"]) == ["modality"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upload_arrives_byte_for_byte(quiet: Service, fits: Fits, *, chunked: bool) -> None:
    content = FILM + random.Random(7).randbytes(3_000_000)
    body = form("file", content)
    answer = await quiet.caller.http.post("/v2/uploads", content=slowly(body) if chunked else body, headers=FORM)
    assert answer.status_code == 201, answer.text
    upload = fits(answer.json(), "Upload")
    assert (upload["kind"], upload["byteSize"]) == ("video", len(content))
    kept = (await quiet.caller.http.get(upload["url"])).content
    assert hashlib.sha256(kept).digest() == hashlib.sha256(content).digest()


async def test_a_refusal_comes_in_the_upstreams_words(quiet: Service, simulator: RunningSimulator, fits: Fits) -> None:
    http = quiet.caller.http
    answer = await http.post("/v2/uploads", content=form("file", b"just text"), headers=FORM)
    fits(refused(answer, 400), "ValidationError")
    assert answer.json()["details"] == {"file": ["Unsupported file type"]}
    await tell(simulator, "config", requests_per_minute=0)
    answer = await http.post("/v2/uploads", content=form("file", PNG), headers=FORM)
    fits(refused(answer, 429), "ErrorResponse")
    assert int(answer.headers["Retry-After"]) > 0
    await tell(simulator, "config", requests_per_minute=None)
    await tell(simulator, "faults", down=1)
    fits(refused(await http.get("/v2/models"), 503), "ErrorResponse")


async def test_scopes_are_asked_for(quiet: Service, simulator: RunningSimulator) -> None:
    reader = await quiet.new_caller("tests", scopes=("read",))
    submitter = await quiet.new_caller("tests", scopes=("submit",))
    thing = "00000000-0000-4000-8000-000000000000"
    for method, path in (
        ("POST", "uploads"),
        ("POST", "assets/create"),
        ("POST", "loras"),
        ("DELETE", f"loras/{thing}"),
    ):
        refused(await reader.http.request(method, f"/v2/{path}"), 403)
        refused(await reader.http.request(method, f"/v2/{path}", headers={"X-API-Key": "none"}), 401)
    for path in (f"assets/{thing}", "loras", f"loras/{thing}"):
        refused(await submitter.http.get(f"/v2/{path}"), 403)
        refused(await submitter.http.get(f"/v2/{path}", headers={"X-API-Key": ""}), 401)
    assert await requests(simulator, "POST /v2/uploads") == 0


async def test_a_form_with_pictures_arrives_byte_for_byte(facing: Facing, upstream: Upstream) -> None:
    service = await facing(upstream.url)
    upstream.answer = plain(202, b'{"id":"5d3c1f0a-6a53-4b6e-9d3f-0d1f7f2f9a11","status":"PENDING","imageCount":15}')
    fields = (("webhookUrl", b"https://theirs.example/hook"), ("name", "caf\u00e9".encode()))
    body = form("images", PNG + bytes(range(256)) * 4_000, *fields, *[("images", b"\r\n--x\r\n")] * 14)
    for content in (body, slowly(body, size=50_001)):
        answer = await service.caller.http.post("/v2/loras", content=content, headers=FORM)
        assert (answer.status_code, answer.json()["imageCount"]) == (202, 15)
    assert [bytes(asked.body) == body for asked in upstream.asked] == [True, True]
    assert [asked.headers.get("Content-Length") for asked in upstream.asked] == [str(len(body)), None]


async def test_errors_of_our_own_are_what_the_vendors_document_says(
    facing: Facing, upstream: Upstream, fits: Fits
) -> None:
    service = await facing(upstream.url)
    reader = await service.new_caller("tests", scopes=("read",))
    nowhere = await facing("http://127.0.0.1:1")
    upstream.answer = plain(401)
    for caller, status, path, headers in (
        (service.caller, 401, "uploads", {"X-API-Key": "none"}),
        (reader, 403, "uploads", {}),
        (service.caller, 413, "assets/create", {}),
        (service.caller, 502, "uploads", {}),
        (nowhere.caller, 503, "uploads", {}),
    ):
        answer = await caller.http.post(f"/v2/{path}", content=bytes(100_000), headers=headers)
        fits(refused(answer, status), "ErrorResponse")


# Headers


async def test_only_what_is_needed_goes_up(facing: Facing, upstream: Upstream) -> None:
    service = await facing(upstream.url)
    sent = {
        **FORM,
        "Authorization": "Bearer theirs",
        "Cookie": "session=theirs",
        "X-Request-Id": "request-7",
        "X-Forwarded-For": "10.0.0.7",
        "Keep-Alive": "timeout=5",
        "TE": "trailers",
        "Proxy-Authorization": "Basic eA==",
        "Idempotency-Key": "seven",
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "X-Custom": "theirs",
    }
    body = form("file", PNG)
    await service.caller.http.post("/v2/uploads", content=body, headers=sent)
    (asked,) = upstream.asked
    host = upstream.url.removeprefix("http://")
    assert {name.lower(): value for name, value in asked.headers.items()} == {
        "host": host,
        "x-api-key": SIMULATOR_KEY,
        "x-request-id": "request-7",
        "content-type": FORM["Content-Type"],
        "content-length": str(len(body)),
        "accept": "application/json",
        "accept-encoding": "identity",
        "connection": "keep-alive",
        "user-agent": "framehook",
    }
    assert bytes(asked.body) == body
    await service.caller.http.get("/v2/models", headers={"If-None-Match": '"7"'})
    assert upstream.asked[1].headers["If-None-Match"] == '"7"'
    assert "X-API-Key" not in upstream.asked[1].headers
    assert service.caller.key not in repr(upstream.asked)


async def test_only_what_is_ours_to_tell_comes_down(facing: Facing, upstream: Upstream) -> None:
    service = await facing(upstream.url)
    kept = {
        "content-type": "application/json; charset=utf-8",
        "cache-control": "public, max-age=60",
        "etag": '"7"',
        "retry-after": "3",
        "content-disposition": "inline",
        "content-encoding": "x-unknown",
    }
    dropped = {
        "set-cookie": "a=b",
        "server": "nginx",
        "keep-alive": "timeout=5",
        "x-powered-by": "x",
        "x-ratelimit": "9",
    }
    headers = {name.replace("-", "_"): value for name, value in (kept | dropped).items()}
    upstream.answer = plain(200, b"\x1f\x8b raw", X_Request_Id="theirs", **headers)
    for _ in range(2):
        answer = await service.caller.http.get("/v2/models", headers={"X-Request-Id": "mine"})
        assert {name: answer.headers[name] for name in kept} == kept
        assert answer.headers["X-Request-Id"] == "mine"
        assert answer.headers["X-Upstream-Request-Id"] == "theirs"
        assert set(dropped) & set(answer.headers) - {"server"} == set()
        assert answer.headers.get("server") != "nginx"
        assert answer.content == b"\x1f\x8b raw"
    assert ["Cookie" in asked.headers for asked in upstream.asked] == [False, False]


async def test_odd_header_values_are_left_behind(facing: Facing, upstream: Upstream) -> None:
    service = await facing(upstream.url)
    headers = [(b"X-Request-Id", b"caf\xe9"), (b"Accept", b"*/*"), (b"X-API-Key", service.caller.key.encode())]
    answer = await service.caller.http.get("/v2/models", headers=headers)
    assert answer.status_code == 200
    answer = await service.caller.http.get("/v2/models?modality=%00%F0%9F%8C%8A&x=a b")
    assert upstream.asked[-1].path == "/v2/models?modality=%00%F0%9F%8C%8A&x=a+b"
    refused(await service.caller.http.get("/v2/models?x=" + "y" * 5000), 400)


async def test_304_and_errors_pass_as_they_are(facing: Facing, upstream: Upstream) -> None:
    service = await facing(upstream.url)
    for status, body in (
        (304, b""),
        (500, b"<h1>oops"),
        (418, b'{"error":"teapot","more":1}'),
        (402, b'{"error":"x"}'),
    ):
        upstream.answer = plain(status, body)
        answer = await service.caller.http.get("/v2/models")
        assert (answer.status_code, answer.content) == (status, body)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


# Our key


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, b'{"error":"Missing or invalid API key"}', 502),
        (401, b"", 502),
        (403, b'{"error":"API key is inactive"}', 502),
        (403, b'{"error":"Your plan does not include LoRA training"}', 403),
        (403, b"<html>", 403),
    ],
)
async def test_a_refusal_of_our_key_does_not_look_like_one_of_the_callers(
    facing: Facing, upstream: Upstream, status: int, body: bytes, expected: int
) -> None:
    service = await facing(upstream.url)
    upstream.answer = plain(status, body)
    answer = await service.caller.http.post("/v2/uploads", content=form("file", PNG), headers=FORM)
    if expected == 502:
        assert refused(answer, 502) == {"error": "The upstream refuses this service's key"}
    else:
        assert (answer.status_code, answer.content) == (expected, body)


# Size


async def test_a_body_that_says_it_is_too_long_is_refused_at_once(facing: Facing, upstream: Upstream) -> None:
    service = await facing(upstream.url)
    host, _, port = service.url.removeprefix("http://").partition(":")
    for path, limit in (("uploads", LIMIT), ("loras", 100 * 1024 * 1024 + 64 * 1024), ("assets/create", 64 * 1024)):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head(service, path, limit + 1))
        async with asyncio.timeout(30):
            said = await reader.readuntil(b"}")
        assert b" 413 " in said.split(b"\r\n")[0]
        assert f'{{"error":"The body may have at most {limit:,} bytes"}}'.encode() in said
        writer.close()
    assert upstream.asked == []


async def test_a_chunked_body_that_becomes_too_long_ends_the_call(facing: Facing, upstream: Upstream) -> None:
    service = await facing(upstream.url)
    answer = await service.caller.http.post("/v2/uploads", content=zeros(LIMIT + 1), headers=FORM)
    assert refused(answer, 413) == {"error": f"The body may have at most {LIMIT:,} bytes"}
    await eventually(lambda: asyncio.sleep(0, upstream.asked))
    (asked,) = upstream.asked
    assert not asked.whole
    assert (await service.caller.http.post("/v2/uploads", content=zeros(LIMIT), headers=FORM)).status_code == 200
    assert upstream.asked[1].whole
    assert len(upstream.asked[1].body) == LIMIT
