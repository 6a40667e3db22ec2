"""What every answer has, whatever was asked: a request id, and Apiframe's envelope where it is not a success."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.main import ROUTES
from app.serving import server_config
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Service, refused, tell


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    """A service that sends nothing by itself."""
    started: Service = await serve(simulator, loops=False)
    return started


async def test_a_route_that_is_not_there_is_said_in_the_envelope(quiet: Service) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/v2"),
        ("GET", "/v2/job"),
        ("GET", "/v2/jobs/"),  # a redirect would lead to whatever host the request named
        ("POST", "/v2/images/generate/more"),
        ("DELETE", "/v1/nothing"),
        ("GET", "/v2/jobs/x/y"),
        ("GET", "/%00"),
        ("GET", "/v2/%F0%9F%8C%8A"),
        ("GET", "/" + "a" * 5_000),
    ):
        assert set(refused(await quiet.caller.http.request(method, path), 404)) == {"error"}


async def test_a_method_that_a_route_does_not_have_is_said_with_those_it_has(quiet: Service) -> None:
    methods_of: dict[str, set[str]] = {}
    for method, path, _ in ROUTES:
        methods_of.setdefault(path, set()).add(method)

    for path, methods in methods_of.items():
        shapes = [(method, re.sub(r"\{\w+\}", "[^/]+", other)) for method, other, _ in ROUTES if other != path]
        elsewhere = {method for method, shape in shapes if re.fullmatch(shape, path)}  # `create` may be an asset's id
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - methods - elsewhere:
            answer = await quiet.caller.http.request(method, re.sub(r"\{\w+\}", str(uuid4()), path))
            refused(answer, 405)
            assert set(answer.headers["Allow"].split(", ")) == methods


async def test_every_refusal_of_the_api_is_in_the_envelope(quiet: Service, simulator: RunningSimulator) -> None:
    """Every status that a caller may meet; none of them is a 422."""
    http = quiet.caller.http
    await quiet.caller.submit(FLUX, Idempotency_Key="taken", Prefer="respond-async")
    await tell(simulator, "config", credits=0)

    refused(await http.get("/v2/jobs", headers={"X-API-Key": "unknown"}), 401)
    refused(await quiet.caller.submit(FLUX), 402)
    reader = await quiet.new_caller("tests", scopes=("read",))
    refused(await reader.submit(), 403)
    refused(await http.get(f"/v2/jobs/{uuid4()}"), 404)
    refused(await quiet.caller.submit(FLUX | {"prompt": "x"}, Idempotency_Key="taken"), 409)
    refused(await http.post("/v2/images/generate", content=b"x" * (1024 * 1024 + 1)), 413)
    for answer in (
        await http.get("/v2/jobs?limit=x"),
        await http.get("/v2/jobs?status="),
        await http.get(f"/v2/jobs/{uuid4()}?wait=x"),
        await quiet.caller.submit(b""),
        await quiet.caller.submit({"model": 1}),
        await http.post("/v2/images/generate", data={"model": "x"}),
        await http.post("/v2/images/generate", files={"model": b"x"}),
    ):
        refused(answer, 400)


async def test_a_request_id_is_on_every_answer_and_no_two_are_alike(quiet: Service) -> None:
    http = quiet.caller.http
    answers = [await http.get(path) for path in ("/healthz", "/readyz", "/v2/jobs", "/nowhere", "/openapi.json")]
    answers += [await quiet.caller.submit(FLUX, Prefer="respond-async"), await quiet.caller.submit(b"{")]

    found = [answer.headers["X-Request-Id"] for answer in answers]

    assert len(set(found)) == len(answers)
    assert all(len(one) >= 16 for one in found)


async def test_a_request_id_that_was_sent_comes_back(quiet: Service) -> None:
    http = quiet.caller.http
    for request_id in ("req-1", "with spaces; and = signs", "x" * 200):
        headers = {"X-Request-Id": request_id}
        for answer in (
            await http.get("/healthz", headers=headers),
            await http.get("/v2/jobs", headers=headers),
            await http.get("/nowhere", headers=headers),
            await http.get("/v2/jobs?limit=0", headers=headers),
            await http.post("/v2/images/generate", content=b"{", headers=headers),
            await http.post("/v2/images/generate", json=FLUX, headers={"Prefer": "respond-async", **headers}),
            await http.put("/v2/jobs", headers=headers),
        ):
            assert answer.headers["X-Request-Id"] == request_id
    empty = await http.get("/healthz", headers={"X-Request-Id": ""})
    assert empty.headers["X-Request-Id"]
    endless = await http.get("/healthz", headers={"X-Request-Id": "x" * 5_000})
    assert len(endless.headers["X-Request-Id"]) <= 200
    not_ascii = await http.get("/healthz", headers={b"X-Request-Id": b"caf\xe9"})
    assert not_ascii.status_code == 200


async def test_a_caller_who_leaves_in_the_middle_of_a_body_disturbs_nobody(quiet: Service) -> None:
    host, _, port = quiet.url.removeprefix("http://").partition(":")
    head = (
        f"POST /v2/images/generate HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {quiet.caller.key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    )
    for _ in range(3):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + b'{"model":"midjourney"')
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    assert (await quiet.caller.http.get("/healthz")).status_code == 200
    assert await quiet.rows("SELECT id FROM jobs") == []


async def test_a_caller_who_leaves_before_the_answer_has_its_job_nevertheless(
    service: Service,
) -> None:
    """A disconnect cancels neither the commit nor the submission; the key finds the job again."""
    host, _, port = service.url.removeprefix("http://").partition(":")
    body = json.dumps(FLUX).encode()
    head = (
        f"POST /v2/images/generate HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {service.caller.key}\r\n"
        f"Idempotency-Key: left\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + body)
    await writer.drain()
    writer.transport.abort()

    job_id = await service.caller.accepted(FLUX, Idempotency_Key="left")

    assert (await service.caller.read(job_id, wait=50))["status"] == "COMPLETED"
    assert len(await service.rows("SELECT id FROM jobs")) == 1


async def test_the_reference_knows_the_routes_and_promises_no_422(quiet: Service) -> None:
    document = (await quiet.caller.http.get("/openapi.json")).json()

    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(method, path) for method, path, _ in ROUTES}
    answers = {
        status for methods in document["paths"].values() for each in methods.values() for status in each["responses"]
    }
    assert "422" not in answers
    operations = [each for methods in document["paths"].values() for each in methods.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    assert [each["summary"] for each in operations if "\n" in each["summary"]] == []
    named = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert named == set(document["components"]["schemas"])
    assert (await quiet.caller.http.get("/docs")).status_code == 200


async def test_an_idle_connection_is_the_callers_to_close(quiet: Service) -> None:
    """A POST on a connection that the server is just closing has no answer, and may not be sent again unasked."""
    assert quiet.server.config.timeout_keep_alive == server_config("app").timeout_keep_alive
    assert quiet.server.config.timeout_keep_alive > (httpx.Limits().keepalive_expiry or 0) * 2
