"""Deadlines of calls to the upstream that end when a test says so, for one that any machine keeps is long to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

from app.apiframe import client
from app.simulator.server import RunningSimulator
from tests.harness import books, eventually


@contextmanager
def noting_deadlines(module: ModuleType, name: str) -> Iterator[list[asyncio.Timeout]]:
    """Have every deadline noted that this module sets by asyncio's `timeout` or `timeout_at`."""
    noted: list[asyncio.Timeout] = []
    make: Callable[[float | None], asyncio.Timeout] = getattr(asyncio, name)

    def note(seconds: float | None) -> asyncio.Timeout:
        noted.append(make(seconds))
        return noted[-1]

    with patch.object(module, "asyncio", SimpleNamespace(**{**vars(asyncio), name: note})):
        yield noted


def end(deadline: asyncio.Timeout) -> None:
    """Have the time be over now."""
    deadline.reschedule(asyncio.get_running_loop().time())


@contextmanager
def ended_when_it_hangs(simulator: RunningSimulator) -> Iterator[None]:
    """Have the one call that the simulator leaves without an answer given up as soon as it does."""

    async def give_up(deadlines: list[asyncio.Timeout]) -> None:
        await eventually(lambda: books(simulator), lambda seen: seen["counters"]["hanging_now"] == 1)
        end(deadlines[-1])

    with noting_deadlines(client, "timeout") as deadlines:
        giving_up = asyncio.create_task(give_up(deadlines))
        try:
            yield
        finally:
            giving_up.cancel()
