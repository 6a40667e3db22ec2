"""TCP between us and others, for tests: PostgreSQL cut off in a COMMIT, an upstream whose answers wait or trickle."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal
from unittest.mock import AsyncMock, patch
from urllib.parse import parse_qs, urlsplit

from app.ops.processes import Presence
from app.simulator.server import RunningSimulator

Look = Callable[[bytes], AsyncIterator[bytes]]
"""What becomes of bytes on their way: whatever is yielded is passed on, a ConnectionResetError cuts the connection."""


class Wire(ABC):
    """A listener on a free port that passes each connection on."""

    def __init__(self) -> None:
        self._connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    @abstractmethod
    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to where the bytes go."""

    @abstractmethod
    def _looks(self) -> tuple[Look, Look]:
        """What looks at the bytes of one connection: those of the client, those of the server."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # Python 3.11's streams cannot bear it when this task ends cancelled.
        with suppress(asyncio.CancelledError):
            await self._converse(reader, writer)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, thither = await self._connect()
        asked, answered = self._looks()
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(reader, thither, asked))
                pumps.create_task(_pump(there, writer, answered))
        except* ConnectionError:
            pass
        finally:
            for end in (writer, thither):
                end.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, look: Look) -> None:
    while part := await source.read(65_536):
        async for piece in look(part):
            sink.write(piece)
            await sink.drain()
    raise ConnectionResetError


class PostgresWire(Wire):
    """The way to PostgreSQL, which can be cut in a COMMIT: before it arrives, or when it is done and nobody was told."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._target = url
        self._commits_until_cut = 0
        self._moment: Literal["before", "after"] = "after"
        self.cuts = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """The address to use instead, for so long. No process tells how it is meanwhile: that would be another COMMIT."""
        parts = urlsplit(self._target)
        user = f"{parts.username}:{parts.password}" if parts.password else str(parts.username)
        with patch.object(Presence, "tell", AsyncMock(return_value=0)):
            async with self._listening() as port:
                yield f"postgresql://{user}@127.0.0.1:{port}{parts.path}?sslmode=disable"

    def cut_in_commit(self, *, moment: Literal["before", "after"] = "after", number: int = 1) -> None:
        """Cut the connection in the next COMMIT, or in a later one by its number from now."""
        self._commits_until_cut, self._moment = number, moment

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._target)
        asked = parse_qs(parts.query)
        folder = asked["host"][0] if "host" in asked else ""
        port = int(asked["port"][0]) if "port" in asked else parts.port or 5432
        if folder.startswith("/"):
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
        return await asyncio.open_connection(folder or parts.hostname, port)

    def _looks(self) -> tuple[Look, Look]:
        committed = False

        async def asked(part: bytes) -> AsyncIterator[bytes]:
            nonlocal committed
            if self._commits_until_cut and b"COMMIT\0" in part:
                self._commits_until_cut -= 1
                if self._commits_until_cut == 0:
                    self.cuts += 1
                    if self._moment == "before":
                        raise ConnectionResetError
                    committed = True
            yield part

        async def answered(part: bytes) -> AsyncIterator[bytes]:
            if committed:
                raise ConnectionResetError  # the server has answered, so it has committed
            yield part

        return asked, answered


class UpstreamWire(Wire):
    """The way to the simulator. With `hold`, answers to POSTs wait in `held` until their event is set.

    With `drip_seconds`, every byte of an answer takes so long.
    """

    def __init__(self, simulator: RunningSimulator) -> None:
        super().__init__()
        self._simulator = simulator
        self.hold = False
        self.held: list[asyncio.Event] = []
        self.drip_seconds = 0.0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """The address to use instead, for so long."""
        async with self._listening() as port:
            yield f"http://127.0.0.1:{port}"

    async def held_count(self) -> int:
        """How many answers came and were held, let go or not."""
        return len(self.held)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._simulator.host, self._simulator.port)

    def _looks(self) -> tuple[Look, Look]:
        waits: asyncio.Event | None = None

        async def asked(part: bytes) -> AsyncIterator[bytes]:
            nonlocal waits
            if part.startswith(b"POST "):
                waits = asyncio.Event() if self.hold else None
            yield part

        async def answered(part: bytes) -> AsyncIterator[bytes]:
            if waits is not None and waits not in self.held:
                self.held.append(waits)
            if waits is not None:
                await waits.wait()
            if not self.drip_seconds:
                yield part
                return
            for byte in part:
                await asyncio.sleep(self.drip_seconds)
                yield bytes([byte])

        return asked, answered
