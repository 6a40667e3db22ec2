"""What tests follow streams with: a client of server-sent events on a bare socket, by the standard's rules, and facts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from uuid_utils.compat import uuid7

from app.events.queries import NewEvent, append
from tests.harness import Service, eventually

JOB = UUID(int=1)


class Message(NamedTuple):
    """One event as the standard dispatches it."""

    id: str
    type: str
    data: str

    @property
    def event(self) -> dict[str, Any]:
        """The event object."""
        return dict(json.loads(self.data))


class Parser:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation, of whole lines."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.last_event_id = ""
        self.retry: int | None = None
        self.comments: list[str] = []
        self._rest = b""
        self._id, self._type, self._data = "", "", list[str]()

    def feed(self, body: bytes) -> None:
        """Take in a part of the body."""
        *lines, self._rest = (self._rest + body).split(b"\n")
        for line in lines:
            self._interpret(line.decode())

    def _interpret(self, line: str) -> None:
        if not line:
            self._dispatch()
        elif line.startswith(":"):
            self.comments.append(line[1:].strip())
        else:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "id":
                self._id = value
            elif field == "event":
                self._type = value
            elif field == "data":
                self._data.append(value)
            elif field == "retry":
                self.retry = int(value)

    def _dispatch(self) -> None:
        self.last_event_id = self._id
        if self._data:
            self.messages.append(Message(self._id, self._type or "message", "\n".join(self._data)))
        self._type, self._data = "", []


class Listener(Parser):
    """One connection. `ended` is "whole" after the last chunk, "cut" when the connection was gone before that."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.ended: str | None = None
        self.refusal: dict[str, Any] = {}

    @property
    def sequences(self) -> list[int]:
        """The numbers of the events so far."""
        return [int(message.id) for message in self.messages]

    @property
    def types(self) -> list[str]:
        """The types of the events so far."""
        return [message.type for message in self.messages]

    async def read_head(self, reader: asyncio.StreamReader) -> None:
        """Read status and headers."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "content-length" in self.headers:
            self.refusal = json.loads(await reader.readexactly(int(self.headers["content-length"])))
            self.ended = "whole"

    async def read_on(self, reader: asyncio.StreamReader) -> None:
        """Take in chunks until the end."""
        try:
            while size := int(await reader.readline() or b"x", 16):
                self.feed((await reader.readexactly(size + 2))[:-2])
            self.ended = "whole"
        except (OSError, ValueError, asyncio.IncompleteReadError):
            self.ended = "cut"

    async def until(self, holds: Callable[[Listener], Any], *, seconds: float = 60) -> None:
        """Wait until something holds."""

        async def look() -> tuple[Any, ...]:
            return bool(holds(self)), self.sequences[-20:], self.types[-20:], self.last_event_id, self.ended

        await eventually(look, lambda seen: seen[0], seconds=seconds)

    async def has(self, count: int, *, seconds: float = 60) -> list[int]:
        """Wait for so many events, and return their numbers."""
        await self.until(lambda one: len(one.messages) >= count, seconds=seconds)
        return self.sequences


async def connect(
    url: str, path: str = "/v1/events/stream", key: str | None = None, *, resume: str | int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send the request of a stream on a connection of its own."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**20)
    lines = [f"GET {path} HTTP/1.1", f"Host: {address.netloc}", "Accept: text/event-stream"]
    lines += [f"X-API-Key: {key}"] if key else []
    lines += [f"Last-Event-ID: {resume}"] if resume is not None else []
    writer.write("\r\n".join([*lines, "", ""]).encode())
    return reader, writer


@asynccontextmanager
async def listening(
    url: str, path: str = "/v1/events/stream", key: str | None = None, *, resume: str | int | None = None
) -> AsyncIterator[Listener]:
    """A client that follows a stream for so long; where it was admitted, it has been told where it begins."""
    reader, writer = await connect(url, path, key, resume=resume)
    listener = Listener()
    await listener.read_head(reader)
    following = asyncio.create_task(listener.read_on(reader)) if listener.ended is None else None
    try:
        if listener.status == 200:
            await listener.until(lambda one: one.last_event_id or one.ended)
        yield listener
    finally:
        if following is not None:
            following.cancel()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def fact(kind: str = "job.progress", *, team: UUID, job: UUID | None = JOB, data: str = "{}") -> NewEvent:
    """An event that is about to be appended."""
    return NewEvent(id=uuid7(), at=datetime.now(UTC), type=kind, team_id=team, job_id=job, data=data)


async def append_events(service: Service, *events: NewEvent, nudge: bool = True) -> list[int]:
    """Append events as the service does; return their numbers."""
    async with service.ctx.db.transaction() as tx:
        await append(tx, events)
    if nudge:
        service.ctx.notify.nudge(["events"])
    rows = await service.rows(
        "SELECT sequence FROM events WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY sequence",
        ids=[event.id for event in events],
    )
    return [row.sequence for row in rows]


async def all_sequences(service: Service, types: Sequence[str] = ()) -> list[int]:
    """The numbers of the whole log, or of some types."""
    rows = await service.rows("SELECT sequence, type FROM events ORDER BY sequence")
    return [row.sequence for row in rows if not types or row.type in types]


async def team_of(service: Service, key_id: UUID) -> UUID:
    """The team of a key."""
    (row,) = await service.rows("SELECT team_id FROM api_keys WHERE id = :id", id=key_id)
    return UUID(str(row.team_id))
