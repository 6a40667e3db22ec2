"""The limit of requests a minute: exact over processes, one request each however long it takes, and nobody else's affair."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.auth import take_requests
from app.events import stream
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Caller, FrozenClock, Service, eventually, refused
from tests.teams.admins import limit_team

LATER = {"Prefer": "respond-async"}


def frozen(*services: Service) -> FrozenClock:
    clock = FrozenClock()
    for service in services:
        service.ctx.clock = clock
    return clock


async def ask(caller: Caller) -> httpx.Response:
    return await caller.http.get("/v2/jobs")


async def test_as_many_requests_as_the_limit_allows_are_let_through_by_any_number_of_processes(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    one, other = [await serve(simulator, loops=False) for _ in range(2)]
    clock = frozen(one, other)
    crowd = await one.new_caller("crowd")
    also = await other.new_caller("crowd")
    await limit_team(one, "crowd", requestsPerMinute=60)

    answers = await asyncio.gather(*(ask(caller) for caller in (crowd, also) for _ in range(20)))

    assert Counter(answer.status_code for answer in answers) == {200: 6, 429: 34}  # a tenth of a minute's at once
    for answer in answers:
        if answer.status_code == 429:
            assert refused(answer, 429) == {"error": "Rate limit exceeded"}
            assert answer.headers["Retry-After"] == "2"  # 54 more in a minute
    clock.advance(2)
    answers = await asyncio.gather(*(ask(caller) for caller in (crowd, also) for _ in range(3)))
    assert Counter(answer.status_code for answer in answers) == {200: 1, 429: 5}


async def test_a_clock_that_is_behind_fills_no_bucket_twice(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    one, other = [await serve(simulator, loops=False) for _ in range(2)]
    ahead, behind = frozen(one), frozen(other)
    ahead.advance(1)
    crowd, also = await one.new_caller("crowd"), await other.new_caller("crowd")
    await limit_team(one, "crowd", requestsPerMinute=60)

    answers = [await ask(caller) for _ in range(20) for caller in (crowd, also)]

    assert behind.time < ahead.time
    assert Counter(answer.status_code for answer in answers) == {200: 6, 429: 34}


async def test_a_team_without_a_limit_costs_nothing_and_one_with_it_is_alone(quiet: Service) -> None:
    frozen(quiet)
    crowd = await quiet.new_caller("crowd")
    for _ in range(30):
        assert (await ask(quiet.caller)).status_code == 200
    assert take_requests not in quiet.ctx._batches

    await limit_team(quiet, "crowd", requestsPerMinute=1)
    assert (await ask(crowd)).status_code == 200
    refused(await ask(crowd), 429)
    assert (await ask(quiet.caller)).status_code == 200
    assert (await ask(await quiet.new_caller("tests"))).status_code == 200


async def test_every_authenticated_request_counts_whatever_its_scopes_and_keys(quiet: Service) -> None:
    frozen(quiet)
    reader, subscriber = await quiet.new_caller("crowd", ("read",)), await quiet.new_caller("crowd", ("subscribe",))
    await limit_team(quiet, "crowd", requestsPerMinute=30)

    refused(await reader.submit(FLUX), 403)
    refused(await reader.http.get("/v2/jobs/nothing"), 404)
    assert (await subscriber.http.get("/v1/events")).status_code == 200
    refused(await reader.http.get("/v2/jobs"), 429)
    refused(await subscriber.http.get("/v1/events"), 429)
    refused(await reader.http.get("/v2/jobs", headers={"X-API-Key": "fh_live_unknown"}), 401)


async def test_a_submission_over_the_limit_leaves_no_trace(quiet: Service) -> None:
    clock = frozen(quiet)
    crowd = await quiet.new_caller("crowd")
    await limit_team(quiet, "crowd", requestsPerMinute=1)
    await crowd.accepted(FLUX, **LATER)

    refused(await crowd.submit(FLUX, Idempotency_Key="one", **LATER), 429)

    assert len(await quiet.rows("SELECT id FROM jobs")) == 1
    clock.advance(61)
    await crowd.accepted(FLUX, Idempotency_Key="one", **LATER)


async def test_a_long_poll_counts_once(quiet: Service) -> None:
    frozen(quiet)
    crowd = await quiet.new_caller("crowd")
    job_id = await crowd.accepted(FLUX, **LATER)
    await limit_team(quiet, "crowd", requestsPerMinute=20)
    await asyncio.sleep(1.1)  # what was believed of the key is looked up again

    waiting = asyncio.create_task(crowd.http.get(f"/v2/jobs/{job_id}?wait=1"))
    while not waiting.done():
        quiet.ctx.notify.wake_everyone()
        await asyncio.sleep(0.05)

    assert waiting.result().status_code == 200
    assert (await ask(crowd)).status_code == 200
    refused(await ask(crowd), 429)


async def test_a_stream_counts_once_and_goes_on_over_the_limit(quiet: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "IDENTIFY_SECONDS", 0.0)
    frozen(quiet)
    crowd = await quiet.new_caller("crowd", ("subscribe",))
    await limit_team(quiet, "crowd", requestsPerMinute=1)

    async with crowd.http.stream("GET", "/v1/events/stream") as answer:
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("retry")
        refused(await ask(crowd), 429)
        submitter = await quiet.new_caller("crowd")
        await limit_team(quiet, "crowd", requestsPerMinute=None)
        await asyncio.sleep(1.1)
        job_id = await eventually(lambda: submitter.submit(FLUX, **LATER), lambda made: made.status_code == 202)
        async with asyncio.timeout(60):
            async for line in lines:
                if job_id.json()["jobId"] in line:
                    break
            else:
                pytest.fail("the stream ended")
