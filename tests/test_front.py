"""Hot routes: the same answers as the framework's own, by a shorter way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from starlette.types import Message

from app.front import Front
from app.main import HOT_ROUTES
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Service, refused

LATER = {"Prefer": "respond-async"}


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    """A service that sends nothing by itself."""
    started: Service = await serve(simulator, loops=False)
    return started


async def by_the_framework(app: Front, method: str, path: str) -> int:
    """The status that the framework's own routing answers to this, without a body and a key."""
    heard = list[Message]()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        heard.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await super(Front, app).__call__(scope, receive, send)
    return int(heard[0]["status"])


async def test_a_hot_route_answers_as_the_framework_would(quiet: Service) -> None:
    app = quiet.server.config.app
    assert isinstance(app, Front)
    http = quiet.caller.http
    for method, template, _ in HOT_ROUTES:
        path = template.format(job_id=uuid4(), token="x")
        for asked in (path, f"{path}/", f"{path}/more", path.rpartition("/")[0], path.upper()):
            for verb in (method, "PUT", "HEAD"):
                answer = await http.request(verb, asked, headers={"X-API-Key": ""})
                assert answer.status_code == await by_the_framework(app, verb, asked), (verb, asked)
                assert answer.headers["X-Request-Id"]


async def test_hot_routes_are_routes_of_the_framework_and_in_its_document(quiet: Service) -> None:
    paths = (await quiet.caller.http.get("/openapi.json")).json()["paths"]
    for method, path, _ in HOT_ROUTES:
        assert paths[path][method.lower()]["summary"]


async def test_a_poller_is_told_once_what_has_not_changed(quiet: Service) -> None:
    job_id = await quiet.caller.accepted(FLUX, **LATER)
    http = quiet.caller.http
    first = await http.get(f"/v2/jobs/{job_id}")
    tag = first.headers["ETag"]

    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await http.get(f"/v2/jobs/{job_id}", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    other = await http.get(f"/v2/jobs/{job_id}", headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.json()) == (200, first.json())

    assert (await http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 200
    changed = await http.get(f"/v2/jobs/{job_id}", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.json()["status"] == "CANCELLED"
    refused(await http.get(f"/v2/jobs/{uuid4()}", headers={"If-None-Match": "*"}), 404)
