"""Fixtures: receivers, and outbounds that may call them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest

from app.outbound import guard
from app.outbound.client import Outbound
from app.outbound.guard import Lookup
from app.targets import Targets
from tests.outbound.servers import OK, Answer, Open, Receive, Receiver, accepting, bytes_of, stop


@pytest.fixture(autouse=True)
def _names_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for names as long as a slow machine may need."""
    monkeypatch.setattr(guard, "LOOKUP_SECONDS", 60.0)


@pytest.fixture
async def receive() -> AsyncIterator[Receive]:
    """Start receivers: `await receive(answer)`. They end with the test, and so do their connections."""
    async with AsyncExitStack() as stack:

        async def start(answer: bytes | Answer = OK, *, tls: ssl.SSLContext | None = None) -> Receiver:
            receiver = Receiver()
            send = bytes_of(answer) if isinstance(answer, bytes) else answer
            server = await asyncio.start_server(accepting(receiver, send), "127.0.0.1", 0, ssl=tls)
            receiver.port = server.sockets[0].getsockname()[1]
            stack.push_async_callback(stop, server, receiver)
            return receiver

        yield start


@pytest.fixture
async def open_outbound() -> AsyncIterator[Open]:
    """Make outbounds that may call 127.0.0.1 and find every name there: `open_outbound(allowed=[], lookup=...)`."""
    async with AsyncExitStack() as stack:

        def make(allowed: Sequence[str] = ("127.0.0.1",), lookup: Lookup = lambda host: ["127.0.0.1"]) -> Outbound:
            made = Outbound(Targets(allowed), lookup=lookup)
            stack.push_async_callback(made.close)
            return made

        yield make
