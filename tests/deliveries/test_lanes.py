"""Who waits for whom: a receiver that hangs or comes back from an outage keeps nobody else waiting."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from app.deliveries import claim, deliver
from app.lanes import PLACES_PER_TARGET
from app.simulator.server import RunningSimulator
from tests.deliveries.conftest import LATER, Subscribe
from tests.deliveries.rows import deliveries, multiply
from tests.harness import Caller, FrozenClock, Service, eventually
from tests.receivers import Received, Receiver

DELAY = timedelta(seconds=1)
Receive = Callable[[], Awaitable[Receiver]]


async def hang(_received: Received) -> web.StreamResponse:
    """Never answer; the one who asked gives up."""
    await asyncio.sleep(3600)
    return web.Response()


async def test_a_receiver_that_hangs_leaves_the_first_attempts_of_the_others_fast(
    serve: Callable[..., Any],
    simulate: Callable[..., RunningSimulator],
    receive: Receive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliver, "TIMEOUT_SECONDS", 600)
    service = await serve(simulate(hold=True))
    subscriber = await service.new_caller("tests", ("subscribe",))
    hanging, *others = [await receive() for _ in range(4)]
    hanging.answers = [hang] * 200
    for receiver in (hanging, *others):
        await subscriber.http.post("/v1/subscriptions", json={"url": receiver.url, "types": ["job.queued"]})

    submitted = {await service.caller.accepted(**LATER) for _ in range(100)}

    for receiver in others:  # whoever waited for the one that hangs would wait for ten minutes
        received = await receiver.wait(100, seconds=120)
        assert {one.event["data"]["id"] for one in received} == submitted
    assert len(hanging.received) == PLACES_PER_TARGET[False]


async def test_late_retries_leave_first_attempts_their_places(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    await subscribe(receiver)
    quiet.ctx.clock = clock = FrozenClock()
    receiver.status = 500
    await quiet.caller.accepted(**LATER)
    await multiply(quiet, 100)
    while await deliver.run_once(quiet.ctx):
        pass
    clock.time += timedelta(hours=1)
    receiver.answers = [hang] * 50
    assert await deliver.start_once(quiet.ctx) == PLACES_PER_TARGET[True]
    await receiver.wait(100 + PLACES_PER_TARGET[True])
    receiver.answers.clear()
    receiver.status = 200

    fresh = await quiet.caller.accepted(**LATER)
    assert await deliver.start_once(quiet.ctx) == 1

    received = await receiver.wait(101 + PLACES_PER_TARGET[True])
    assert received[-1].event["data"]["id"] == fresh


async def test_two_processes_never_make_the_same_attempt(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator], receiver: Receiver, receive: Receive
) -> None:
    simulator = simulate(hold=True)
    one, other = [await serve(simulator, loops=False) for _ in range(2)]
    one.ctx.clock = other.ctx.clock = FrozenClock()
    subscriber = await one.new_caller("tests", ("subscribe",))
    await subscriber.http.post("/v1/subscriptions", json={"url": receiver.url})
    await one.caller.accepted(**LATER)
    await multiply(one, 200)

    while any(await asyncio.gather(deliver.run_once(one.ctx), deliver.run_once(other.ctx))):
        pass

    seen = Counter(received.id for received in receiver.received)
    assert len(seen) == 200
    assert set(seen.values()) == {1}
    assert {row.status for row in await deliveries(one)} == {"delivered"}


async def test_a_rate_limit_holds_over_several_processes(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator], receiver: Receiver
) -> None:
    simulator = simulate(hold=True)
    one, other = [await serve(simulator, loops=False) for _ in range(2)]
    one.ctx.clock = other.ctx.clock = clock = FrozenClock()
    subscriber = await one.new_caller("tests", ("subscribe",))
    await subscriber.http.post("/v1/subscriptions", json={"url": receiver.url, "rateLimit": 60})
    await one.caller.accepted(**LATER)
    await multiply(one, 200)

    for _ in range(60):
        await asyncio.gather(deliver.run_once(one.ctx), deliver.run_once(other.ctx))
        clock.time += DELAY
    in_a_minute = len(receiver.received)
    for _ in range(60):
        await asyncio.gather(deliver.run_once(one.ctx), deliver.run_once(other.ctx))
        clock.time += DELAY

    assert 55 <= in_a_minute <= 60
    assert 50 <= len(receiver.received) - in_a_minute <= 60


async def test_every_target_gets_its_turn_when_places_are_few(
    quiet: Service, receive: Receive, subscribe: Subscribe, subscriber: Caller
) -> None:
    crowd, lonely = await receive(), await receive()
    crowd.answers = [hang] * 500
    await subscribe(crowd)
    await quiet.caller.accepted(**LATER)
    await multiply(quiet, 300)
    await subscribe(lonely)
    await quiet.caller.accepted(**LATER)

    await deliver.start_once(quiet.ctx)

    await lonely.wait(1)
    await eventually(lambda: look(crowd), lambda count: count == PLACES_PER_TARGET[False])


async def look(receiver: Receiver) -> int:
    return len(receiver.received)


async def test_targets_that_are_known_to_hang_take_up_one_place_each(
    quiet: Service, receive: Receive, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "TIMEOUT_SECONDS", 0.3)
    hanging = await receive()
    hanging.answers = [hang] * 500
    await subscribe(hanging)
    await quiet.caller.accepted(**LATER)
    await multiply(quiet, 50)
    assert await deliver.run_once(quiet.ctx) == PLACES_PER_TARGET[False]

    assert await deliver.run_once(quiet.ctx) == 1
    monkeypatch.undo()
    hanging.answers.clear()
    assert await deliver.run_once(quiet.ctx) == 1
    assert await deliver.run_once(quiet.ctx) == PLACES_PER_TARGET[False]


async def test_what_a_rate_limit_holds_back_is_looked_at_again_soon_though_nothing_was_allowed(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "TOKEN_SECONDS", 0.01)
    await subscribe(receiver, rateLimit=1)
    await quiet.caller.accepted(**LATER)
    await multiply(quiet, 2)
    assert await deliver.run_once(quiet.ctx) == 1

    with quiet.ctx.notify.listening("deliver") as nudged:
        nudged.clear()
        assert await deliver.run_once(quiet.ctx) == 0
        async with asyncio.timeout(30):
            await nudged.wait()
