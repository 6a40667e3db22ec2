"""The client: a POST is one request with one deadline and ends in a Reply, a GET follows redirects and ends in a Download.

No request leaves before its URL was judged, a redirect's like the first.
"""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin

import aiohttp
import msgspec
from yarl import URL

from app.clock import Clock, SystemClock
from app.outbound.connections import IDLE_SECONDS, Connections, Origin
from app.outbound.download import CallFailed, Download, telling
from app.outbound.exchange import Call, Overdue
from app.outbound.guard import Guard, Lookup, system_lookup
from app.outbound.headers import retry_after_seconds
from app.outbound.words import describe
from app.targets import TargetRefused, Targets
from app.version import version

NAMES_KEPT_SECONDS: Final = 10
TARGETS_KEPT: Final = 4096
"""URLs that need not be read again, since subscribers are called at the same ones."""

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS: Final = 5


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended: with a status, or with an error, or with both where an answer broke off after its head.

    `error` is one line for people. `seconds` is how long it all took. `address` is the IP address that was connected to
    or, failing that, tried last; None: it did not come to that. `refused`: the guard forbade the call, and no byte was sent.
    """

    status: int | None
    error: str | None
    seconds: float
    address: str | None = None
    body: bytes = b""
    retry_after_seconds: float | None = None
    refused: bool = False


_current: ContextVar[Call] = ContextVar("call")


class Outbound:
    """One pool of connections to wherever we are asked to call. It belongs to the event loop of its first call."""

    def __init__(self, targets: Targets, *, lookup: Lookup = system_lookup, clock: Clock | None = None) -> None:
        self._targets = targets
        self._clock = clock or SystemClock()
        self._guard = Guard(targets, lookup, keep_seconds=NAMES_KEPT_SECONDS)
        self._connections = Connections(self._guard, lambda info: _open_socket(info))  # noqa: PLW0108 - tests put another one in its place
        self._read = functools.lru_cache(TARGETS_KEPT)(lambda url: _Target.of(targets.check(url)))
        self._opened: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_seconds: float) -> Reply:
        """Send one POST, within so many seconds for everything, and follow no redirect.

        Raises nothing for what the target, the network or the guard says: that is in the Reply. The headers go out as they
        are given; what others wrote is to be judged by `header_fault` before. How many calls run at once is the
        caller's affair.
        """
        call, error, refused = Call(), None, False
        started = time.monotonic()
        token = _current.set(call)
        try:
            target = self._read(url)
            request = target.request(headers, body)
            await self._connections.exchange(target.origin, request, call, seconds=timeout_seconds)
        except TargetRefused as refusal:
            text = str(refusal)
            error, refused = f"refused: {text[:1].lower()}{text[1:]}", True
        except Overdue:
            error = f"timed out after {timeout_seconds:g} s"
        except OSError as failure:
            error = describe(failure)
        finally:
            _current.reset(token)
        return Reply(
            status=call.status,
            error=error,
            seconds=time.monotonic() - started,
            address=call.address,
            body=call.body,
            retry_after_seconds=retry_after_seconds(call.retry_after, self._clock.now()),
            refused=refused,
        )

    @asynccontextmanager
    async def get(
        self, url: str, *, headers: Mapping[str, str] = MappingProxyType({}), idle_seconds: float
    ) -> AsyncIterator[Download]:
        """Send a GET, follow up to `MOST_REDIRECTS` redirects, and hand out the answer, of whatever status, for the block.

        So many seconds are waited for the head, redirects included, and then for each piece of the body. Raises
        TargetRefused when the guard forbids the URL or one that it redirects to, and CallFailed for what the network does.
        The headers go to wherever a redirect leads: they are no place for secrets.
        """
        token = _current.set(Call())
        try:
            async with telling(idle_seconds, late="no answer within"):
                response = await self._follow(self._targets.check(url), headers)
        finally:
            _current.reset(token)
        try:
            yield Download(response, idle_seconds=idle_seconds)
        finally:
            response.close()

    def fault(self, url: str) -> str | None:
        """Why a URL must not be called, as far as it shows that by itself and for ever; None: no reason."""
        return self._targets.fault(url)

    async def refusal(self, url: str) -> str | None:
        """Why a URL must not be called, as its name resolves now; None: it may be, or its name does not resolve (soon)."""
        try:
            await self._guard.addresses(self._targets.check(url).raw_host or "")
        except TargetRefused as refused:
            return str(refused)
        except OSError:
            return None
        return None

    async def close(self) -> None:
        """Close the connections; nothing can be called afterwards."""
        self._connections.close()
        if self._opened is not None:
            await self._opened.close()
        await self._guard.close()

    async def _follow(self, target: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        for _ in range(1 + MOST_REDIRECTS):
            response = await self._session().get(target, headers=headers, allow_redirects=False)
            location = response.headers.get("Location")
            if response.status not in REDIRECTS or not location:
                return response
            response.close()
            target = self._redirected(target, location)
        raise CallFailed("too many redirects")

    def _redirected(self, target: URL, location: str) -> URL:
        try:
            url = urljoin(str(target), location)
        except ValueError:
            raise TargetRefused("Must have a host that can be read") from None
        following = self._targets.check(url)
        if target.scheme == "https" and following.scheme == "http":
            raise TargetRefused("Must not lead from https to http")
        return following

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=_Connector(
                    resolver=self._guard,
                    limit=0,
                    use_dns_cache=False,  # the guard has one
                    keepalive_timeout=IDLE_SECONDS,
                    socket_factory=_open_socket,
                ),
                # Whoever gets has a deadline; those of aiohttp would come on top of it, rounded to whole seconds.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                # Reading larger pieces, as downloads do, widens it.
                read_bufsize=2**14,
            )
        return self._opened


_USER_AGENT: Final = f"Framehook/{version()}"
_OWN_HEADERS: Final = (
    ("user-agent", f"User-Agent: {_USER_AGENT}"),
    ("accept", "Accept: */*"),
    ("accept-encoding", "Accept-Encoding: identity"),
)
"""What goes with a POST unless another value was given for it."""


class _Target(NamedTuple):
    """A URL that was judged: where it leads, and how a request to it begins."""

    origin: Origin
    begin: str

    @classmethod
    def of(cls, url: URL) -> _Target:
        # What `check` read is what is called: a second parser could see another host.
        begin = f"POST {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}"
        return cls(Origin(url.raw_host or "", url.port or 0, url.scheme == "https"), begin)

    def request(self, headers: Mapping[str, str], body: bytes) -> bytes:
        """The bytes to send. Raises ValueError for headers that would be more than they seem."""
        given = {name.lower() for name in headers}
        lines = [self.begin, *(line for name, line in _OWN_HEADERS if name not in given)]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines.append(f"Content-Length: {len(body)}\r\n\r\n")
        head = "\r\n".join(lines).encode("ascii")
        if head.count(b"\n") != len(lines) + 2 or head.count(b"\r") != len(lines) + 2:
            raise ValueError("A header has a line break in it")
        return head + body


class _Connector(aiohttp.TCPConnector):
    """Notes for each call the address at the other end, of a connection that was kept as of a new one."""

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        peer = connection.transport and connection.transport.get_extra_info("peername")
        if peer:
            _current.get().address = peer[0]
        return connection


def _open_socket(info: Any) -> socket.socket:
    family, kind, protocol, _, address = info
    _current.get().address = address[0]
    return socket.socket(family, kind, protocol)
