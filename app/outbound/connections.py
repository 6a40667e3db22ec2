"""Connections to receivers, by where they lead: one that was kept, or a new one to an address that the guard lets through.

What was judged is what is connected to; the host's name stays in TLS and in the request.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import aiohappyeyeballs

from app.outbound.exchange import Call, Connection, Overdue
from app.outbound.guard import Guard

IDLE_SECONDS: Final = 4.0
"""A connection is kept for less than the 5 s after which Node's servers, by default, close it under our next call."""

LEAST_SLEEP_SECONDS: Final = 0.05
"""Deadlines and idle connections are looked at no more often than this."""

NEXT_ADDRESS_SECONDS: Final = 0.25
"""While one address of a name does not answer, the next is tried after so long (RFC 8305, 5)."""


class Origin(NamedTuple):
    """Where connections lead: a host's name or address, a port, and whether TLS is spoken."""

    host: str
    port: int
    tls: bool


class Connections:
    """All connections of an event loop. Any number may be in use at once."""

    def __init__(self, guard: Guard, open_socket: Callable[[Any], socket.socket]) -> None:
        self._guard = guard
        self._open_socket = open_socket
        self._kept: dict[Origin, list[tuple[float, Connection]]] = {}  # and how long
        self._busy: dict[Connection, float] = {}  # and until when
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = 0.0

    async def exchange(self, origin: Origin, request: bytes, call: Call, *, seconds: float) -> None:
        """Send a request where it leads, and read the answer into `call`. Raises TargetRefused, Overdue and OSError."""
        deadline = time.monotonic() + seconds
        connection = self._take(origin) or await self._open_in_time(origin, seconds)
        call.address = connection.address
        self._busy[connection] = deadline
        self._wake_at(deadline)
        try:
            await connection.exchange(request, call)
        finally:
            del self._busy[connection]
        if connection.usable:
            until = time.monotonic() + IDLE_SECONDS
            self._kept.setdefault(origin, []).append((until, connection))
            self._wake_at(until)

    def close(self) -> None:
        """Close what is kept."""
        if self._timer is not None:
            self._timer.cancel()
        for kept in self._kept.values():
            for _, connection in kept:
                connection.close()
        self._kept.clear()

    def _take(self, origin: Origin) -> Connection | None:
        """The connection that was used last: those that are not needed grow old."""
        kept = self._kept.get(origin)
        while kept:
            until, connection = kept.pop()
            if connection.usable and until > time.monotonic():
                return connection
            connection.close()
        return None

    def _wake_at(self, moment: float) -> None:
        """Have one timer for everything: most of what it is set for is over by then, and a timer for each costs more."""
        if self._timer is not None:
            if self._wakes_at <= moment:
                return
            self._timer.cancel()
        self._wakes_at = moment
        self._timer = asyncio.get_running_loop().call_later(max(moment - time.monotonic(), 0), self._wake)

    def _wake(self) -> None:
        """Give up what is overdue, close what was idle for too long, and come again when the next may be."""
        now, self._timer = time.monotonic(), None
        for connection, deadline in self._busy.items():
            if deadline <= now:
                connection.give_up()
        for origin, kept in list(self._kept.items()):
            for until, connection in kept:
                if until <= now:
                    connection.close()
            kept[:] = [one for one in kept if one[1].usable]
            if not kept:
                del self._kept[origin]
        waits = [deadline for deadline in self._busy.values() if deadline > now]
        waits += [until for kept in self._kept.values() for until, _ in kept]
        if waits:
            self._wake_at(max(min(waits), now + LEAST_SLEEP_SECONDS))

    async def _open_in_time(self, origin: Origin, seconds: float) -> Connection:
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                return await self._open(origin)
        except TimeoutError:
            if deadline.expired():
                raise Overdue from None
            raise

    async def _open(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        opened = await aiohappyeyeballs.start_connection(
            [
                (socket.AF_INET6 if ":" in address else socket.AF_INET, *_TCP, _place(address, origin.port))
                for address in await self._guard.addresses(origin.host)
            ],
            happy_eyeballs_delay=NEXT_ADDRESS_SECONDS,
            interleave=1,
            socket_factory=self._open_socket,
        )
        try:
            name = origin.host.removesuffix(".") if origin.tls else None
            tls = _tls() if origin.tls else None
            _, connection = await loop.create_connection(Connection, sock=opened, ssl=tls, server_hostname=name)
        except BaseException:
            opened.close()
            raise
        return connection


_TCP: Final = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")


def _place(address: str, port: int) -> tuple[Any, ...]:
    return (address, port, 0, 0) if ":" in address else (address, port)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Read once: certificates of authorities take long to read."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
