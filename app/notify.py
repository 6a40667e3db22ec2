"""LISTEN/NOTIFY: a hint, never the truth. Losing it costs latency only, since whoever waits also looks by itself.

A nudge reaches this process's waiters at once and the other processes by one coalesced NOTIFY, sent after the commit.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

import asyncpg
import structlog

from app.db import OUTAGES

log = structlog.get_logger()

CHANNEL: Final = "framehook"
LARGEST_PAYLOAD: Final = 7_900
"""Bytes; PostgreSQL takes payloads below 8,000."""

RECONNECT_SECONDS: Final = 1.0


class Notifier:
    """One connection that listens for all waiters of a process, and speaks for all of its nudges."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self._me = uuid4().hex[:12]
        self._waiters: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._unsent: dict[str, None] = {}
        self._something_unsent = asyncio.Event()

    @contextmanager
    def listening(self, *topics: str) -> Iterator[asyncio.Event]:
        """An event that is set by every nudge of these topics; enter before reading what the nudge is about."""
        event = asyncio.Event()
        for topic in topics:
            self._waiters[topic].add(event)
        try:
            yield event
        finally:
            for topic in topics:
                self._waiters[topic].discard(event)
                if not self._waiters[topic]:
                    del self._waiters[topic]

    def nudge(self, topics: Collection[str]) -> None:
        """Wake whoever listens to these topics, here and elsewhere. Call it after the commit."""
        if topics:
            self._unsent.update(dict.fromkeys(topics))
            self._something_unsent.set()
        self.wake(topics)

    def wake(self, topics: Collection[str]) -> None:
        """Wake whoever listens to these topics in this process: what it is about concerns no other."""
        for topic in topics:
            for event in self._waiters.get(topic, ()):
                event.set()

    async def run(self) -> None:
        """Keep a connection that listens and sends, for ever; whenever it is new, wake everyone: nudges may be missing."""
        while True:
            try:
                await self._converse()
            except OUTAGES as error:
                log.warning("notify.lost", error=str(error) or type(error).__name__)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _converse(self) -> None:
        connection = await self._connect()
        lost = asyncio.Event()

        def end(_connection: Any) -> None:
            lost.set()
            self._something_unsent.set()

        connection.add_termination_listener(end)
        try:
            await connection.add_listener(CHANNEL, self._hear)
            self.wake_everyone()
            while not lost.is_set():
                await self._something_unsent.wait()
                self._something_unsent.clear()
                for payload in self._payloads():
                    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)
        finally:
            connection.terminate()

    def _payloads(self) -> Iterator[str]:
        topics, self._unsent = list(self._unsent), {}
        payload = self._me
        for topic in topics:
            if len(payload) + len(topic) + 1 > LARGEST_PAYLOAD:
                yield payload
                payload = self._me
            payload += f" {topic}"
        if payload != self._me:
            yield payload

    def _hear(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        sender, *topics = str(payload).split(" ")
        if sender == self._me:
            return
        self.wake(topics)

    def wake_everyone(self) -> None:
        """Have every waiter of this process look again."""
        for events in self._waiters.values():
            for event in events:
                event.set()


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, or so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
