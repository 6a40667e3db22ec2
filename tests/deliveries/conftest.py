"""Fixtures of deliveries: a service that does nothing by itself, receivers, and a subscriber's client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.simulator.server import RunningSimulator
from tests.harness import Caller, FrozenClock, Service
from tests.receivers import Receiver, receiving

LATER = {"Prefer": "respond-async"}
"""Headers of a submission that is accepted and, without loops, goes no further: one event."""

Subscribe = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def receive() -> AsyncIterator[Callable[[], Awaitable[Receiver]]]:
    """Start receivers: `await receive()`. They end with the test."""
    async with AsyncExitStack() as stack:
        yield lambda: stack.enter_async_context(receiving())


@pytest.fixture
async def receiver(receive: Callable[[], Awaitable[Receiver]]) -> Receiver:
    """One receiver."""
    return await receive()


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]) -> Service:
    """A service without loops, in front of a simulator that holds its jobs. Its time stands still: so no lease goes by."""
    started: Service = await serve(simulate(hold=True), loops=False)
    started.ctx.clock = FrozenClock()
    return started


@pytest.fixture
async def subscriber(quiet: Service) -> Caller:
    """A subscriber of the team that submits."""
    return await quiet.new_caller("tests", ("subscribe", "submit", "read"))


@pytest.fixture
def subscribe(subscriber: Caller) -> Subscribe:
    """Subscribe a receiver: `await subscribe(receiver, types=["job.*"])`."""

    async def begin(receiver: Receiver, *, by: Caller = subscriber, **fields: Any) -> dict[str, Any]:
        answer = await by.http.post("/v1/subscriptions", json={"url": receiver.url, **fields})
        assert answer.status_code == 201, answer.text
        created: dict[str, Any] = answer.json()
        return created

    return begin
