"""Calls to other companies' addresses: what is sent, what is told of an answer, and what ends a call."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import threading
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.outbound import connections
from app.outbound.client import Outbound
from app.outbound.exchange import LONGEST_EXCERPT
from app.targets import Targets
from app.version import version
from tests.harness import FrozenClock
from tests.outbound.servers import (
    Names,
    Open,
    Receive,
    Received,
    dripping,
    make_tls,
    needs_openssl,
    pass_time,
    post,
    until,
)

# What is sent, and what is told


async def test_a_reply_says_status_body_address_and_time(receive: Receive, open_outbound: Open) -> None:
    async def slow(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nRetry-After: 120\r\n\r\nbusy")

    reply = await post(open_outbound(), (await receive(slow)).url())

    assert (reply.status, reply.error, reply.refused) == (503, None, False)
    assert (reply.body, reply.address, reply.retry_after_seconds) == (b"busy", "127.0.0.1", 120)
    assert reply.seconds > 0.09


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


async def test_a_connection_is_kept_and_its_address_told_each_time(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 600)
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


async def test_a_date_to_come_back_at_is_told_in_seconds(receive: Receive, open_outbound: Open) -> None:
    calls, clock = open_outbound(), FrozenClock()
    calls._clock = clock
    date = format_datetime(clock.time + timedelta(seconds=90), usegmt=True)
    head = f"HTTP/1.1 429 Slow down\r\nRetry-After: {date}\r\nContent-Length: 0\r\n\r\n"

    reply = await post(calls, (await receive(head.encode())).url())

    assert reply.retry_after_seconds == pytest.approx(90, abs=1)  # a date has no fractions of seconds


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
    assert reply.seconds > 0.2


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_a_receiver_that_drips_is_timed_out_and_what_it_said_is_told(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    receiver, calls, wait = await receive(dripping(head)), open_outbound(), pass_time()
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=asyncio.get_running_loop().time))

    def read() -> int:
        return sum(connection._received for connection in calls._connections._busy)

    calling = asyncio.create_task(post(calls, receiver.url(), seconds=600))
    for seconds in (0, 250, 250, 250):
        before = read()
        await until(lambda before=before: read() > before)  # type: ignore[misc]
        assert not calling.done()
        wait(seconds)
    reply = await calling

    assert reply.error == "timed out after 600 s"
    assert reply.status == (200 if head.endswith(b"\r\n\r\n") else None)
    assert bool(reply.body) == (reply.status is not None)
    await until(lambda: receiver.open == 0)


async def test_a_name_that_is_looked_up_for_too_long_is_timed_out(open_outbound: Open) -> None:
    go_on = threading.Event()

    def slow(host: str) -> list[str]:
        go_on.wait(60)
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
            go_on.wait(60)
        return ["127.0.0.1"]

    calls = open_outbound(lookup=slow)
    slow_ones = [asyncio.create_task(post(calls, receiver.url(host=f"slow{number}.example"))) for number in range(50)]
    try:
        for _ in slow_ones:
            await asyncio.to_thread(waiting.acquire, timeout=60)
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


@needs_openssl
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
