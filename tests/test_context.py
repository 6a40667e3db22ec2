"""The database that is handed down: whoever leaves lets go of it, at whatever moment."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from app import embedded
from app.config import load_settings
from app.context import open_database


async def test_a_server_that_is_still_starting_when_its_user_is_cancelled_is_let_go_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun, may_answer = threading.Event(), threading.Event()
    server = Mock(spec=embedded.EmbeddedServer)

    def start(_: Path) -> embedded.EmbeddedServer:
        begun.set()
        assert may_answer.wait(10)
        return server

    async def use() -> None:
        async with open_database(load_settings(_env_file=None, database_url=None, data_dir=tmp_path)):
            pytest.fail("it was cancelled before")

    monkeypatch.setattr(embedded, "start", start)
    user = asyncio.create_task(use())
    assert await asyncio.to_thread(begun.wait, 10)
    user.cancel()
    may_answer.set()
    with pytest.raises(asyncio.CancelledError):
        await user
    server.close.assert_called_once_with()
