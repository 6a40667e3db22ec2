"""From names to the addresses that may be connected to. What is judged here is what the connection is made to."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple

from aiohttp.abc import AbstractResolver, ResolveResult

from app.targets import TargetRefused, Targets, is_address

Lookup = Callable[[str], Sequence[str]]
"""From a host's name to its IP addresses; runs in a thread, raises OSError where there are none."""

LOOKUPS_AT_ONCE: Final = 64
LOOKUP_SECONDS: Final = 5.0
"""A name that takes longer is not waited for, which leaves time for the call."""

MOST_NAMES: Final = 10_000


def system_lookup(host: str) -> list[str]:
    """The addresses of a name as this machine resolves it, in the order to try them in; raises OSError for none.

    An address that is valid in one zone only has the zone with it, after a `%`.
    """
    # Given as bytes, the name is not put through Python's IDNA codec, which raises errors of its own.
    found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [f"{where[0]}%{where[3]}" if len(where) == 4 and where[3] else str(where[0]) for *_, where in found]


class _Found(NamedTuple):
    """What a name leads to; `until` the monotonic clock says so, nobody looks again."""

    addresses: Sequence[str]
    until: float


class Guard(AbstractResolver):
    """Resolves names to the addresses that may be connected to, in threads of its own: some names take very long."""

    def __init__(self, targets: Targets, lookup: Lookup, *, keep_seconds: float) -> None:
        self._targets = targets
        self._lookup = lookup
        self._keep_seconds = keep_seconds
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="lookup")
        self._looking = 0
        self._known: OrderedDict[str, _Found] = OrderedDict()
        self._sought: dict[str, asyncio.Future[Sequence[str]]] = {}

    async def addresses(self, host: str) -> list[str]:
        """The addresses that may be connected to for a host, which may be one itself. Raises TargetRefused and OSError."""
        found = [host] if is_address(host) else await self._find(host)
        refusals = {address: self._targets.refusal(host, address) for address in found}
        admitted = [address for address, refusal in refusals.items() if refusal is None]
        if not admitted:
            # Which address it is, is nothing to tell those who may not know the names of this network.
            raise TargetRefused(f"{host} leads to no public address" if found else f"{host} has no address")
        return admitted

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The same, as aiohttp asks for it."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await self.addresses(host)
        ]

    async def _find(self, host: str) -> Sequence[str]:
        """Look a name up, once for all who ask for it within `keep_seconds`.

        Where that takes too long, or slow names take up all threads, what was found before serves.

        A thread goes on until its system call ends, whoever still waits for it.
        """
        known = self._known.get(host)
        if known is not None and (known.until > time.monotonic() or self._looking >= LOOKUPS_AT_ONCE):
            return known.addresses
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                return await asyncio.shield(self._sought.get(host) or self._seek(host))
        except TimeoutError:
            if known is None:
                late = f"{host} was not resolved within {LOOKUP_SECONDS:g} s"
                raise socket.gaierror(socket.EAI_AGAIN, late) from None
            return known.addresses

    def _seek(self, host: str) -> asyncio.Future[Sequence[str]]:
        self._looking += 1
        seeking = asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host)
        self._sought[host] = seeking
        seeking.add_done_callback(partial(self._note_end, host))
        return seeking

    def _note_end(self, host: str, seeking: asyncio.Future[Sequence[str]]) -> None:
        self._looking -= 1
        del self._sought[host]
        if seeking.cancelled() or seeking.exception() is not None:
            return  # whoever waited was told, or waits no longer
        self._known[host] = _Found(seeking.result(), time.monotonic() + self._keep_seconds)
        self._known.move_to_end(host)
        if len(self._known) > MOST_NAMES:
            self._known.popitem(last=False)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
