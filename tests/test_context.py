"""The database that is handed down: whoever leaves lets go of it, at whatever moment."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import asyncpg
import pytest

from app import embedded
from app.config import load_settings
from app.context import open_database
from app.db import Database


async def test_a_server_that_is_still_starting_when_its_user_is_cancelled_is_let_go_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun, may_answer = threading.Event(), threading.Event()
    server = Mock(spec=embedded.EmbeddedServer)

    def start(_: Path) -> embedded.EmbeddedServer:
        begun.set()
        assert may_answer.wait(60)
        return server

    async def use() -> None:
        async with open_database(load_settings(_env_file=None, database_url=None, data_dir=tmp_path)):
            pytest.fail("it was cancelled before")

    monkeypatch.setattr(embedded, "start", start)
    user = asyncio.create_task(use())
    assert await asyncio.to_thread(begun.wait, 60)
    user.cancel()
    may_answer.set()
    with pytest.raises(asyncio.CancelledError):
        await user
    server.close.assert_called_once_with()


async def test_every_connection_is_closed_though_the_closer_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def dispose() -> None:
        begun.set()
        await may_end.wait()
        ended.set()

    database = Database("postgresql://nobody@127.0.0.1:1/nothing")
    monkeypatch.setattr(database, "engine", Mock(dispose=dispose))
    closer = asyncio.create_task(database.close())
    await begun.wait()
    closer.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await closer
    assert ended.is_set()


async def test_a_connection_is_closed_though_whoever_opens_it_is_cancelled_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by a deadline and by the end of the process: what comes of the connecting is nobody's then."""
    may_connect = asyncio.Event()
    closed: list[str] = []

    class Connection:
        def terminate(self) -> None:
            closed.append("closed")

    async def connect(*_: Any, **__: Any) -> Connection:
        await may_connect.wait()
        return Connection()

    monkeypatch.setattr(asyncpg, "connect", connect)
    database = Database("postgresql://somebody@127.0.0.1:1/nowhere")
    opening = asyncio.create_task(database.connect_directly())
    for _ in range(2):
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(opening, return_exceptions=True)
    assert opening.cancelled()
    may_connect.set()
    async with asyncio.timeout(30):
        while not closed:
            await asyncio.sleep(0)
    await database.close()
