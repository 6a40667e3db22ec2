"""Calls to other companies' addresses: what is told of them, what ends them, and that the guard cannot be got around."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import outbound
from app.outbound import LONGEST_EXCERPT, Outbound, Reply, header_fault, retry_after_seconds, system_lookup
from app.targets import Targets
from app.version import version

HEADERS: Final = {"Content-Type": "application/json", "webhook-id": "msg_1"}
OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"

Answer = Callable[["Received", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Received:
    """A request as the receiver read it, and the port that it came from."""

    line: str
    headers: dict[str, str]
    body: bytes
    port: int


@dataclass
class Receiver:
    """A small HTTP server on 127.0.0.1: what it received, and how many connections there were."""

    port: int = 0
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, path: str = "/hook", *, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


Receive = Callable[..., Awaitable[Receiver]]
Open = Callable[..., Outbound]


def bytes_of(answer: bytes) -> Answer:
    async def send(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return send


def dripping(head: bytes) -> Answer:
    async def drip(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    return drip


@pytest.fixture
async def receive() -> AsyncIterator[Receive]:
    """Start receivers: `await receive(answer)`. They end with the test, and so do their connections."""
    async with AsyncExitStack() as stack:

        async def start(answer: bytes | Answer = OK, *, tls: ssl.SSLContext | None = None) -> Receiver:
            receiver = Receiver()
            send = bytes_of(answer) if isinstance(answer, bytes) else answer
            server = await asyncio.start_server(accepting(receiver, send), "127.0.0.1", 0, ssl=tls)
            receiver.port = server.sockets[0].getsockname()[1]
            stack.push_async_callback(stop, server, receiver)
            return receiver

        yield start


def accepting(receiver: Receiver, answer: Answer) -> Callable[..., None]:
    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(converse(receiver, answer, reader, writer))
        receiver.tasks.add(task)

    return accept


async def converse(
    receiver: Receiver, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    receiver.connections += 1
    receiver.open += 1
    try:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await read_request(reader, writer.get_extra_info("peername")[1])
                receiver.requests.append(request)
                await answer(request, writer)
    finally:
        receiver.open -= 1
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


async def read_request(reader: asyncio.StreamReader, port: int) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rows = head.strip().split("\r\n")
    headers = {name.lower(): value for name, value in (row.split(": ", 1) for row in rows)}
    return Received(line, headers, await reader.readexactly(int(headers.get("content-length", 0))), port)


async def stop(server: asyncio.Server, receiver: Receiver) -> None:
    server.close()
    for task in receiver.tasks:
        task.cancel()
    await asyncio.gather(*receiver.tasks, return_exceptions=True)


@pytest.fixture
async def open_outbound() -> AsyncIterator[Open]:
    """Make outbounds that may call 127.0.0.1 and find every name there: `open_outbound(allowed=[], lookup=...)`."""
    async with AsyncExitStack() as stack:

        def make(
            allowed: Sequence[str] = ("127.0.0.1",), lookup: outbound.Lookup = lambda host: ["127.0.0.1"]
        ) -> Outbound:
            made = Outbound(Targets(allowed), lookup=lookup)
            stack.push_async_callback(made.close)
            return made

        yield make


async def post(calls: Outbound, url: str, body: bytes = b"{}", seconds: float = 5) -> Reply:
    return await calls.post(url, body, HEADERS, timeout_seconds=seconds)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


class Names:
    """A DNS whose answers change: each look-up takes the next one, the last for ever. An OSError is raised."""

    def __init__(self, *answers: list[str] | OSError) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str) -> list[str]:
        answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append(host)
        if isinstance(answer, OSError):
            raise answer
        return answer


# What is sent, and what is told


async def test_a_reply_says_status_body_address_and_time(receive: Receive, open_outbound: Open) -> None:
    async def slow(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nRetry-After: 120\r\n\r\nbusy")

    reply = await post(open_outbound(), (await receive(slow)).url())

    assert (reply.status, reply.error, reply.refused) == (503, None, False)
    assert (reply.body, reply.address, reply.retry_after_seconds) == (b"busy", "127.0.0.1", 120)
    assert 0.09 < reply.seconds < 4


async def test_a_request_is_what_was_given_and_says_who_sends_it(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive()

    await post(open_outbound(), receiver.url("/a/../b%2F?c=%3d&d", host="Hooks.example"), b'{"a": 1}')

    (request,) = receiver.requests
    assert request.line == "POST /a/../b%2F?c=%3d&d HTTP/1.1"
    assert request.body == b'{"a": 1}'
    assert request.headers == {
        "host": f"hooks.example:{receiver.port}",
        "user-agent": f"Framehook/{version()}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": "8",
        "webhook-id": "msg_1",
    }


@pytest.mark.parametrize("size", [0, 2**20, 2**20 + 1, 3 * 2**20])
async def test_a_body_of_any_size_arrives_whole(receive: Receive, open_outbound: Open, size: int) -> None:
    receiver = await receive()
    body = bytes(range(256)) * (size // 256 + 1)

    assert (await post(open_outbound(), receiver.url(), body[:size])).status == 200

    assert receiver.requests[0].body == body[:size]


async def test_a_connection_is_kept_and_its_address_told_each_time(receive: Receive, open_outbound: Open) -> None:
    receiver, calls = await receive(), open_outbound()

    replies = [
        await post(calls, receiver.url(host=host)) for host in ("127.0.0.1", "127.0.0.1", "a.example", "a.example")
    ]

    assert [(reply.status, reply.address, reply.body) for reply in replies] == [(200, "127.0.0.1", b"hi")] * 4
    assert receiver.connections == 2
    assert len({request.port for request in receiver.requests}) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_reply_like_any_other(receive: Receive, open_outbound: Open, status: int) -> None:
    elsewhere = await receive()
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere.url()}\r\nContent-Length: 0\r\n\r\n"

    reply = await post(open_outbound(), (await receive(head.encode())).url())

    assert (reply.status, reply.error) == (status, None)
    assert elsewhere.connections == 0


async def test_proxies_of_the_environment_are_not_used(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, receiver = await receive(), await receive()
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url(""))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    reply = await post(open_outbound(), receiver.url(host="hooks.example"))

    assert (reply.status, len(receiver.requests), proxy.connections) == (200, 1, 0)


async def test_no_cookie_is_kept(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
    calls = open_outbound()

    for _ in range(2):
        await post(calls, receiver.url(host="hooks.example"))

    assert ["cookie" in request.headers for request in receiver.requests] == [False, False]


# What ends a call


async def test_of_an_endless_body_16_kib_are_read_and_the_connection_is_dropped(
    receive: Receive, open_outbound: Open
) -> None:
    async def endless(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    receiver = await receive(endless)

    reply = await post(open_outbound(), receiver.url())

    assert (reply.status, reply.error, reply.body) == (200, None, b"x" * LONGEST_EXCERPT)
    await until(lambda: receiver.open == 0)


async def test_a_compressed_body_is_not_unpacked(receive: Receive, open_outbound: Open) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"

    reply = await post(open_outbound(), (await receive(head.encode() + bomb)).url())

    assert (reply.status, reply.body) == (200, bomb[:LONGEST_EXCERPT])


async def test_a_receiver_that_says_nothing_is_timed_out(receive: Receive, open_outbound: Open) -> None:
    async def silent(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    reply = await post(open_outbound(), (await receive(silent)).url(), seconds=0.25)

    assert (reply.status, reply.error, reply.address) == (None, "timed out after 0.25 s", "127.0.0.1")
    assert 0.2 < reply.seconds < 2


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_a_receiver_that_drips_is_timed_out_and_what_it_said_is_told(
    receive: Receive, open_outbound: Open, head: bytes
) -> None:
    receiver = await receive(dripping(head))

    reply = await post(open_outbound(), receiver.url(), seconds=0.3)

    assert reply.error == "timed out after 0.3 s"
    assert 0.25 < reply.seconds < 2
    assert reply.status == (200 if head.endswith(b"\r\n\r\n") else None)
    assert bool(reply.body) == (reply.status is not None)
    await until(lambda: receiver.open == 0)


async def test_a_name_that_is_looked_up_for_too_long_is_timed_out(open_outbound: Open) -> None:
    go_on = threading.Event()

    def slow(host: str) -> list[str]:
        go_on.wait(10)
        return ["127.0.0.1"]

    try:
        reply = await post(open_outbound(lookup=slow), "http://hooks.example/", seconds=0.2)
    finally:
        go_on.set()

    assert (reply.error, reply.address) == ("timed out after 0.2 s", None)


async def test_names_that_take_long_hold_up_nobody_else(receive: Receive, open_outbound: Open) -> None:
    receiver, go_on, waiting = await receive(), threading.Event(), threading.Semaphore(0)

    def slow(host: str) -> list[str]:
        if host.startswith("slow"):
            waiting.release()
            go_on.wait(10)
        return ["127.0.0.1"]

    calls = open_outbound(lookup=slow)
    slow_ones = [asyncio.create_task(post(calls, receiver.url(host=f"slow{number}.example"))) for number in range(50)]
    try:
        for _ in slow_ones:
            await asyncio.to_thread(waiting.acquire, timeout=5)
        reply = await post(calls, receiver.url(host="fast.example"))
    finally:
        go_on.set()

    assert (reply.status, reply.error) == (200, None)
    assert {reply.status for reply in await asyncio.gather(*slow_ones)} == {200}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"SSH-2.0-OpenSSH_9.7\r\n", "the answer is not valid HTTP"),
        (b"HTTP/1.1 abc\x00\r\n\r\n", "the answer is not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n", "the answer is not valid HTTP"),
    ],
)
async def test_an_answer_that_is_no_http_is_one_line(
    receive: Receive, open_outbound: Open, answer: bytes, error: str
) -> None:
    reply = await post(open_outbound(), (await receive(answer)).url())

    assert reply.status is None
    assert reply.error
    assert reply.error.startswith(error)
    assert reply.error.isprintable()
    assert len(reply.error) <= 300


async def test_a_connection_that_ends_without_an_answer_is_told(receive: Receive, open_outbound: Open) -> None:
    async def hang_up(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.close()

    reply = await post(open_outbound(), (await receive(hang_up)).url())

    assert (reply.status, reply.error) == (None, "the connection was closed without an answer")
    assert reply.address == "127.0.0.1"


async def test_an_answer_that_breaks_off_is_told_with_what_came_of_it(receive: Receive, open_outbound: Open) -> None:
    async def break_off(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()

    reply = await post(open_outbound(), (await receive(break_off)).url())

    assert (reply.status, reply.error, reply.body) == (200, "the answer broke off", b"half")


async def test_a_refused_connection_is_told(open_outbound: Open) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        reply = await post(open_outbound(), f"http://127.0.0.1:{unused.getsockname()[1]}/")

    assert (reply.status, reply.error, reply.address) == (None, "connection refused", "127.0.0.1")
    assert not reply.refused


async def test_a_name_that_does_not_exist_is_told(open_outbound: Open) -> None:
    names = Names(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))

    reply = await post(open_outbound(lookup=names), "http://nowhere.example/")

    assert (reply.status, reply.error, reply.address) == (None, "DNS: name or service not known", None)
    assert not reply.refused


def test_the_system_knows_this_machine_by_name() -> None:
    assert set(system_lookup("localhost")) & {"127.0.0.1", "::1"}


async def test_a_call_that_is_cancelled_leaves_no_connection(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive(dripping(b"HTTP/1.1 200 OK\r\nX-Slow: "))
    calling = asyncio.create_task(post(open_outbound(), receiver.url()))
    await until(lambda: len(receiver.requests) == 1)

    calling.cancel()

    with pytest.raises(asyncio.CancelledError):
        await calling
    await until(lambda: receiver.open == 0)


async def test_an_outbound_that_was_never_used_can_be_closed() -> None:
    await Outbound(Targets()).close()


# The guard


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1]", "[::127.0.0.1]", "[::]", "0.0.0.0"),
        *("2130706433", "0x7f000001", "017700000001", "127.1", "0177.0.0.1", "127.0.0.1.", "0", "localhost"),
        *("user@127.0.0.1", "hooks.example@127.0.0.1", "127。0。0。1", "127%2e0%2e0%2e1", "hooks.example\\@127.0.0.1"),
    ],
)
async def test_no_way_to_write_this_machine_leads_to_it(receive: Receive, open_outbound: Open, host: str) -> None:
    receiver, names = await receive(), Names(["127.0.0.1"])

    reply = await post(open_outbound(allowed=(), lookup=names), receiver.url(host=host))

    assert (reply.status, reply.refused, reply.address) == (None, True, None)
    assert (reply.error or "").startswith("refused: ")
    assert (receiver.connections, names.asked) == (0, [])


async def test_a_number_is_no_host_even_if_its_address_is_allowed(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive()

    for host in ("2130706433", "127.1", "0x7f.1", "127.0.0.1."):
        assert (await post(open_outbound(allowed=["127.0.0.0/8"]), receiver.url(host=host))).refused

    assert receiver.connections == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254", "fe80::1%2"])
async def test_a_name_that_leads_to_a_forbidden_address_is_refused_and_the_address_is_not_told(
    receive: Receive, open_outbound: Open, address: str
) -> None:
    receiver = await receive()

    reply = await post(open_outbound(allowed=(), lookup=lambda host: [address]), receiver.url(host="hooks.example"))

    error = "refused: hooks.example leads to no public address"
    assert (reply.status, reply.error, reply.refused, reply.address) == (None, error, True, None)
    assert receiver.connections == 0


async def test_slow_names_keep_no_name_from_being_called_that_was_resolved_before(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "NAMES_KEPT_SECONDS", 0)
    monkeypatch.setattr(outbound, "LOOKUP_SECONDS", 0.3)
    receiver = await receive(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    released = threading.Event()

    def lookup(host: str) -> list[str]:
        if host.startswith("slow"):
            released.wait(30)
        return ["127.0.0.1"]

    calls = open_outbound(lookup=lookup)
    assert (await post(calls, receiver.url(host="fine.example"))).status == 200
    slow = [post(calls, receiver.url(host=f"slow{number}.example")) for number in range(outbound.LOOKUPS_AT_ONCE)]
    waiting = [asyncio.ensure_future(one) for one in slow]
    answered = asyncio.ensure_future(asyncio.wait(waiting))

    known = await post(calls, receiver.url(host="fine.example"))
    unknown = await post(calls, receiver.url(host="new.example"))
    await answered
    released.set()

    assert known.status == 200
    assert unknown.error is not None
    assert "not resolved within" in unknown.error
    assert {one.result().status for one in waiting} == {None}


async def test_a_name_without_addresses_is_refused(open_outbound: Open) -> None:
    reply = await post(open_outbound(lookup=lambda host: []), "http://hooks.example/")

    assert (reply.error, reply.refused) == ("refused: hooks.example has no address", True)


async def test_of_several_addresses_the_forbidden_ones_are_left_out(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive()
    calls = open_outbound(lookup=lambda host: ["10.0.0.1", "fd00::1", "127.0.0.1", "::1", "192.168.0.1"])

    # The order in which addresses are tried changes with every call that finds the name in the cache.
    replies = [await post(calls, receiver.url(host="hooks.example"), seconds=2) for _ in range(6)]

    assert {(reply.status, reply.address) for reply in replies} == {(200, "127.0.0.1")}


async def test_a_name_is_looked_up_once_per_connection_so_its_answer_cannot_change_in_between(
    receive: Receive, open_outbound: Open
) -> None:
    """The stand-in for a public address is 127.0.0.1, which is allowed; whoever looks twice gets a forbidden one."""
    receiver, names = await receive(), Names(["127.0.0.1"], ["10.0.0.1"])

    reply = await post(open_outbound(lookup=names), receiver.url(host="rebinding.example"))

    assert (reply.status, reply.address, names.asked) == (200, "127.0.0.1", ["rebinding.example"])


async def test_a_name_that_leads_elsewhere_later_is_judged_again(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "NAMES_KEPT_SECONDS", 0)
    receiver = await receive(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    names = Names(["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"], ["::1"])
    calls = open_outbound(lookup=names)

    replies = [await post(calls, receiver.url(host="rebinding.example")) for _ in range(4)]

    assert [(reply.status, reply.refused) for reply in replies] == [(200, False), (None, True)] * 2
    assert [reply.address for reply in replies] == ["127.0.0.1", None] * 2
    assert len(names.asked) == 4


async def test_a_name_that_first_leads_to_a_public_address_never_leads_to_this_machine(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No socket is opened for the public answer, since the machine that tests run on may well have a network."""
    monkeypatch.setattr(outbound, "NAMES_KEPT_SECONDS", 0)
    receiver = await receive()
    opened: list[str] = []

    def no_socket(info: tuple[object, object, object, object, tuple[str, int]]) -> socket.socket:
        opened.append(info[4][0])
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(outbound, "_open_socket", no_socket)
    names = Names(["1.1.1.1"], ["127.0.0.1"])
    calls = open_outbound(allowed=(), lookup=names)

    first, second = [await post(calls, receiver.url(host="rebinding.example")) for _ in range(2)]

    assert (first.error, first.refused) == ("network is unreachable", False)
    assert (second.error, second.refused) == ("refused: rebinding.example leads to no public address", True)
    assert (opened, receiver.connections) == (["1.1.1.1"], 0)


async def test_calls_that_wait_for_one_look_up_are_all_told_what_came_of_it(open_outbound: Open) -> None:
    names = Names(["10.0.0.1"])
    calls = open_outbound(lookup=names)

    replies = await asyncio.gather(*(post(calls, "http://hooks.example/") for _ in range(5)))

    assert {(reply.refused, reply.error) for reply in replies} == {
        (True, "refused: hooks.example leads to no public address")
    }


async def test_an_allowed_host_may_lead_to_this_machine(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive()
    calls = open_outbound(allowed=["*.hooks.internal"])

    assert (await post(calls, receiver.url(host="a.hooks.internal"))).status == 200
    assert (await post(calls, receiver.url(host="hooks.example"))).refused
    assert (await post(calls, receiver.url())).refused


# TLS


async def test_tls_is_told_the_name_and_not_the_address(receive: Receive, open_outbound: Open) -> None:
    """A server without a certificate ends the handshake, but has read the name by then (RFC 6066, 3)."""
    told: list[str | None] = []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.sni_callback = lambda _socket, name, _context: told.append(name)
    receiver = await receive(tls=tls)

    reply = await post(open_outbound(), receiver.url(host="hooks.example", scheme="https"))

    assert told == ["hooks.example"]
    assert reply.status is None
    assert reply.error
    assert reply.address == "127.0.0.1"
    assert receiver.requests == []


def make_tls(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate that it made itself."""
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    subject = ["-subj", "/CN=hooks.example", "-addext", "subjectAltName=DNS:hooks.example"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *subject]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    return tls


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_a_certificate_that_nobody_vouches_for_ends_the_call(
    receive: Receive, open_outbound: Open, tmp_path: Path
) -> None:
    tls = make_tls(tmp_path)
    receiver = await receive(tls=tls)

    reply = await post(open_outbound(), receiver.url(host="hooks.example", scheme="https"))

    assert reply.status is None
    assert (reply.error or "").startswith("TLS: certificate verify failed: self")
    assert receiver.requests == []


async def test_a_server_without_tls_is_told(receive: Receive, open_outbound: Open) -> None:
    async def plain(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0)

    receiver = await receive(plain)

    reply = await post(open_outbound(), receiver.url(scheme="https"), seconds=0.3)

    assert reply.status is None
    assert reply.error
    assert receiver.requests == []


# Headers


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        ("120.5", None),
        ("-1", None),
        ("1" * 20, None),
        ("soon", None),
        ("", None),
        ("Wed, 25 Nov 2026 12:02:00 GMT", 120),
        ("Wed, 25 Nov 2026 12:02:00 +0000", 120),
        ("Wed, 25 Nov 2026 14:02:00 +0200", 120),
        ("Wed, 25 Nov 2026 12:02:00 -0000", 120),
        ("Wednesday, 25-Nov-26 12:02:00 GMT", 120),
        ("Wed Nov 25 12:02:00 2026", 120),
        ("Wed, 25 Nov 2020 12:02:00 GMT", 0),
        ("Wed, 99 Nov 2026 12:02:00 GMT", None),
        ("Wed, 25 Nov 99999999999999999999 12:02:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, datetime(2026, 11, 25, 12, 0, tzinfo=UTC)) == seconds


@given(st.text() | st.text("0123456789:, +-GMTNovWed", max_size=40))
def test_no_retry_after_is_too_odd_to_be_read(value: str) -> None:
    seconds = retry_after_seconds(value, datetime(2026, 11, 25, tzinfo=UTC))

    assert seconds is None or seconds >= 0


async def test_a_date_to_come_back_at_is_told_in_seconds(receive: Receive, open_outbound: Open) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    head = f"HTTP/1.1 429 Slow down\r\nRetry-After: {date}\r\nContent-Length: 0\r\n\r\n"

    reply = await post(open_outbound(), (await receive(head.encode())).url())

    assert reply.retry_after_seconds == pytest.approx(90, abs=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Bearer abc=="),
        ("X-Api-Key", "k"),
        ("x_team", 'a "quoted" value, with; all!'),
        ("Cookie", "a=b"),
        ("User-Agent", "hooks/1"),
        ("X-Webhooks", "1"),
        ("X-Long", "x" * 4096),
    ],
)
def test_a_header_of_others_may_be_sent(name: str, value: str) -> None:
    assert header_fault(name, value) is None


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        *((name, "x", "sets itself") for name in sorted(outbound.FORBIDDEN_HEADERS)),
        ("HOST", "hooks.example", "sets itself"),
        ("Transfer-Encoding", "chunked", "sets itself"),
        ("webhook-id", "1", "sets itself"),
        ("Webhook-Signature", "v1,x", "sets itself"),
        ("X-Webhook-Timestamp", "1", "sets itself"),
        ("", "x", "have a name"),
        ("X Key", "x", "have a name"),
        ("X-Key:", "x", "have a name"),
        ("X-Key\r\nHost", "x", "have a name"),
        ("X-Kéy", "x", "have a name"),
        ("X-Key\n", "x", "have a name"),
        ("X-Key", "", "have a value"),
        ("X-Key", " x", "have a value"),
        ("X-Key", "x ", "have a value"),
        ("X-Key", "x\n", "have a value"),
        ("X-Key", "x\r\nHost: y", "have a value"),
        ("X-Key", "x\x00", "have a value"),
        ("X-Key", "x\ty", "have a value"),
        ("X-Key", "é", "have a value"),
        ("X-Key", "x" * 4097, "4,096"),
        ("X" * 4097, "x", "4,096"),
    ],
)
def test_a_header_of_others_that_must_not_be_sent_is_told_why(name: str, value: str, fault: str) -> None:
    assert fault in (header_fault(name, value) or "")


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_header_that_passes_stays_on_its_line(name: str, value: str) -> None:
    if header_fault(name, value) is None:
        line = f"{name}: {value}"
        assert line.isascii()
        assert line.isprintable()
        assert ":" not in name
