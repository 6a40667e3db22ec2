"""Calls to addresses that others gave us: subscribers' and callers'. Every call has one deadline and ends in a Reply.

An address is judged after its name was resolved, and what was judged is what is connected to.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import re
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from app.clock import Clock, SystemClock
from app.targets import TargetRefused, Targets
from app.version import version

Lookup = Callable[[str], Sequence[str]]
"""From a host's name to its IP addresses; runs in a thread, raises OSError where there are none."""

LONGEST_EXCERPT: Final = 16 * 1024
"""Bytes of an answer's body that are read."""

LARGE_BODY: Final = 2**20
LONGEST_ERROR: Final = 300
LONGEST_HEADER: Final = 4096
LOOKUPS_AT_ONCE: Final = 64
NAMES_KEPT_SECONDS: Final = 10
LOOKUP_SECONDS: Final = 5.0
"""A name that takes longer is not waited for, which leaves time for the call."""

MOST_NAMES: Final = 10_000

IDLE_SECONDS: Final = 4.0
"""A connection is kept for less than the 5 s after which Node's servers, by default, close it under our next call."""

FORBIDDEN_HEADERS: Final = frozenset(
    {
        *("connection", "content-encoding", "content-length", "content-type", "expect", "host", "http2-settings"),
        *("keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    }
)
"""In lower case: what frames a request or says what is in it."""

SIGNING_HEADERS: Final = ("webhook-", "x-webhook-")
"""What the names of headers begin with that only we set, since receivers trust them."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_SECONDS: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Reply:
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


@dataclass(slots=True)
class _Call:
    """What is known of a call so far, whatever may yet interrupt it."""

    status: int | None = None
    address: str | None = None
    body: bytes = b""
    retry_after: str | None = None


_current: ContextVar[_Call] = ContextVar("call")


def system_lookup(host: str) -> list[str]:
    """The addresses of a name as this machine resolves it, in the order to try them in; raises OSError for none.

    An address that is valid in one zone only has the zone with it, after a `%`.
    """
    # Given as bytes, the name is not put through Python's IDNA codec, which raises errors of its own.
    found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [f"{where[0]}%{where[3]}" if len(where) == 4 and where[3] else str(where[0]) for *_, where in found]


class Outbound:
    """One pool of connections to wherever we are asked to call. It belongs to the event loop of its first call."""

    def __init__(self, targets: Targets, *, lookup: Lookup = system_lookup, clock: Clock | None = None) -> None:
        self._targets = targets
        self._clock = clock or SystemClock()
        self._guard = _Guard(targets, lookup)
        self._opened: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_seconds: float) -> Reply:
        """Send one POST, within so many seconds for everything, and follow no redirect.

        Raises nothing for what the target, the network or the guard says: that is in the Reply. The headers go out as they
        are given; what others wrote is to be judged by `header_fault` before. How many calls run at once is the
        caller's affair.
        """
        call, error, refused = _Call(), None, False
        started, deadline = time.monotonic(), asyncio.timeout(timeout_seconds)
        token = _current.set(call)
        try:
            async with deadline:
                await self._call(call, url, body, headers)
        except TargetRefused as refusal:
            text = str(refusal)
            error, refused = f"refused: {text[:1].lower()}{text[1:]}", True
        except (aiohttp.ClientError, OSError) as failure:
            error = f"timed out after {timeout_seconds:g} s" if deadline.expired() else _describe(failure)
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

    async def refusal(self, url: str) -> str | None:
        """Why a URL must not be called, as its name resolves now; None: it may be, or its name does not resolve (soon)."""
        try:
            await self._guard.resolve(self._targets.check(url).raw_host or "")
        except TargetRefused as refused:
            return str(refused)
        except OSError:
            return None
        return None

    async def close(self) -> None:
        """Close the connections; nothing can be called afterwards."""
        if self._opened is not None:
            await self._opened.close()
        await self._guard.close()

    async def _call(self, call: _Call, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        # What `check` read is what aiohttp gets: a second parser could see another host. Literal addresses are judged
        # here, because aiohttp asks no resolver for them.
        target = self._targets.check(url)
        # aiohttp writes a large body piece by piece, but only from a file, and a file costs a thread to close.
        data = body if len(body) <= LARGE_BODY else io.BytesIO(body)
        response = await self._session().post(target, data=data, headers=headers, allow_redirects=False)
        try:
            call.status = response.status
            call.retry_after = response.headers.get("Retry-After")
            while len(call.body) < LONGEST_EXCERPT and (
                piece := await response.content.read(LONGEST_EXCERPT - len(call.body))
            ):
                call.body += piece
        finally:
            # An answer that was read to its end has let go of its connection already; any other one loses it here.
            response.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=_Connector(
                    resolver=self._guard,
                    limit=0,
                    ttl_dns_cache=NAMES_KEPT_SECONDS,
                    keepalive_timeout=IDLE_SECONDS,
                    socket_factory=_open_socket,
                ),
                # The one deadline is that of `post`; those of aiohttp would come on top of it, rounded to whole seconds.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                headers={"User-Agent": f"Framehook/{version()}", "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                read_bufsize=LONGEST_EXCERPT,
            )
        return self._opened


class _Guard(AbstractResolver):
    """Resolves names to the addresses that may be connected to, in threads of its own: some names take very long."""

    def __init__(self, targets: Targets, lookup: Lookup) -> None:
        self._targets = targets
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="lookup")
        self._looking = 0
        self._known: OrderedDict[str, Sequence[str]] = OrderedDict()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._find(host)
        refusals = {address: self._targets.refusal(host, address) for address in found}
        admitted = [address for address, refusal in refusals.items() if refusal is None]
        if not admitted:
            # Which address it is, is nothing to tell those who may not know the names of this network.
            raise TargetRefused(f"{host} leads to no public address" if found else f"{host} has no address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in admitted
        ]

    async def _find(self, host: str) -> Sequence[str]:
        """Look a name up. Where that takes too long, or slow names take up all threads, what was found before serves.

        A thread goes on until its system call ends, whoever still waits for it.
        """
        known = self._known.get(host)
        if known is not None and self._looking >= LOOKUPS_AT_ONCE:
            return known
        self._looking += 1
        looking = asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host)
        looking.add_done_callback(self._note_end)
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                found = await asyncio.shield(looking)
        except TimeoutError:
            if known is None:
                raise OSError(f"{host} was not resolved within {LOOKUP_SECONDS:g} s") from None
            return known
        self._known[host] = found
        self._known.move_to_end(host)
        if len(self._known) > MOST_NAMES:
            self._known.popitem(last=False)
        return found

    def _note_end(self, looking: asyncio.Future[Sequence[str]]) -> None:
        self._looking -= 1
        if not looking.cancelled():
            looking.exception()  # whoever waited was told, or waits no longer

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


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


def header_fault(name: str, value: str) -> str | None:
    """Why a header that others wrote must not be sent with our calls; None: it may be."""
    if len(name) > LONGEST_HEADER or len(value) > LONGEST_HEADER:
        return f"Must have at most {LONGEST_HEADER:,} characters"
    if not _TOKEN.fullmatch(name):
        return "Must have a name of letters, digits and hyphens"
    if name.lower() in FORBIDDEN_HEADERS or name.lower().startswith(SIGNING_HEADERS):
        return f"Must not be {name}, which this service sets itself"
    if not _VALUE.fullmatch(value):
        return "Must have a value of printable ASCII characters, without a space at either end"
    return None


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Read `Retry-After` (RFC 9110, 10.2.3), seconds or a date; None: it was not sent or cannot be read. Never negative."""
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max((date - now).total_seconds(), 0.0)


def _describe(error: aiohttp.ClientError | OSError) -> str:
    """One line that says what went wrong, safe to keep: parts of it may be the other side's words."""
    text = "".join(letter if letter.isprintable() else " " for letter in _words(error))
    return " ".join(text.split())[:LONGEST_ERROR]


def _words(error: aiohttp.ClientError | OSError) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"DNS: {(error.os_error.strerror or str(error.os_error)).lower()}"
        case aiohttp.ClientConnectorError():
            return _system_words(error.os_error)
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed without an answer"
        case aiohttp.ClientPayloadError():
            return "the answer broke off"
        case aiohttp.ClientResponseError():
            return f"the answer is not valid HTTP: {error.message}"
        case OSError():
            return _system_words(error)
        case _:
            return str(error) or type(error).__name__


def _system_words(error: OSError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"TLS: certificate verify failed: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
        case ConnectionResetError():
            return "connection reset by peer"
        case OSError(errno=int(number)) if number in errno.errorcode:
            return os.strerror(number).lower()
        case _:
            return str(error) or type(error).__name__
