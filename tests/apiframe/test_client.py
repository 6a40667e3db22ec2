"""The upstream's client: whatever becomes of a connection, a call ends in an answer, a refusal, or in nobody knows."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from threading import Thread

import pytest
import uvloop

from app.apiframe.client import Apiframe
from app.apiframe.errors import Unclear

AT_ONCE = struct.pack("ii", 1, 0)


@pytest.fixture
def resetting() -> Iterator[str]:
    """An upstream that resets every connection as soon as it is made."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reset() -> None:
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
                    if not stays:
                        return

        stays = [True]
        thread = Thread(target=reset, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        stays.clear()
        socket.create_connection(server.getsockname()).close()
        thread.join(60)


@pytest.mark.timeout(1200)
def test_a_connection_that_is_reset_at_once_is_unclear_in_every_instant_that_it_may_strike(resetting: str) -> None:
    """One in about a thousand strikes where httpx's own errors do not cover it: enough are made that some do."""

    async def call() -> int:
        upstream = Apiframe(resetting, timeout_seconds=5)
        unclear = 0
        for _ in range(3000):
            try:
                await upstream.me("afk_test_key")
            except Unclear:
                unclear += 1
        await upstream.close()
        return unclear

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(call()) == 3000
