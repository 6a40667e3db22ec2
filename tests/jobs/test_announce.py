"""What subscribers are told of a job: each fact once, in order, with the job object as it was then."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.clock import SettableClock
from app.events.feed import EventFilter, read, shape_event
from app.http import json_response
from app.simulator.server import RunningSimulator
from tests.harness import FrozenClock, HeldJob, Service, held_job, post_webhook
from tests.simulator.walks import sign

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]


async def told(service: Service) -> list[dict[str, Any]]:
    """All events, as readers are shown them."""
    async with service.ctx.db.reading() as connection:
        page = await read(connection, None, EventFilter(), limit=100)
    shown: list[dict[str, Any]] = json.loads(bytes(json_response([shape_event(row) for row in page.events]).body))
    return shown


async def say(service: Service, job: HeldJob, event: str, **said: Any) -> None:
    body = job.says(event, **said)
    assert (await post_webhook(service, job.url, body, sign(body))).status_code == 200


@pytest.fixture
async def service(serve: Serve, simulate: Simulate) -> Service:
    started: Service = await serve(simulate(hold=True), loops=False)
    return started


async def test_a_job_is_told_of_from_its_acceptance_to_its_end(serve: Serve, simulate: Simulate) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    service.ctx.clock = clock = SettableClock()
    job = await held_job(service, simulator)
    await say(service, job, "progress", progress=30)
    clock.advance(2)
    await say(service, job, "progress", progress=60)
    await say(service, job, "completed", result={"images": ["https://files.example/1.png"]}, creditCost=7)
    await say(service, job, "completed", result={"images": ["https://files.example/2.png"]}, creditCost=8)

    events = await told(service)

    expected = [
        ("job.queued", "QUEUED", None),
        ("job.dispatched", "QUEUED", None),
        ("job.processing", "PROCESSING", 30),
        ("job.progress", "PROCESSING", 30),
        ("job.progress", "PROCESSING", 60),
        ("job.completed", "COMPLETED", 100),
    ]
    assert [(each["type"], each["data"]["status"], each["data"]["progress"]) for each in events] == expected
    assert events[-1]["data"] == await service.caller.read(job.id)
    assert len({each["id"] for each in events}) == len(events)
    assert [each["sequence"] for each in events] == sorted(each["sequence"] for each in events)
    assert set(events[0]) == {"id", "type", "timestamp", "sequence", "data"}


async def test_the_progress_of_a_job_is_told_at_most_once_a_second(serve: Serve, simulate: Simulate) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    service.ctx.clock = clock = FrozenClock()
    one, other = [await held_job(service, simulator) for _ in range(2)]
    for progress in range(10, 20):
        await say(service, one, "progress", progress=progress)
    await say(service, other, "progress", progress=50)
    clock.advance(5)
    await say(service, one, "progress", progress=90)

    progressed = [
        (each["data"]["id"], each["data"]["progress"]) for each in await told(service) if "progress" in each["type"]
    ]

    assert progressed == [(one.id, 10), (other.id, 50), (one.id, 90)]


async def test_a_refused_submission_is_told_of_as_failed(serve: Serve, simulate: Simulate) -> None:
    service = await serve(simulate(credits=0), loops=False)
    assert (await service.caller.submit()).status_code == 402

    events = await told(service)

    assert [each["type"] for each in events] == ["job.queued", "job.failed"]
    assert events[-1]["data"]["errorCode"] == "insufficient_credits"


async def test_an_acceptance_that_is_repeated_is_told_of_once(service: Service) -> None:
    for _ in range(3):
        await service.caller.accepted(Idempotency_Key="again", Prefer="respond-async")

    assert [each["type"] for each in await told(service)] == ["job.queued"]
