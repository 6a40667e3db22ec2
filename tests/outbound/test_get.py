"""Downloads from addresses that others gave us: where redirects may lead, what breaks one off, what is in memory."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from app.outbound import client
from app.outbound.client import MOST_REDIRECTS, Outbound
from app.outbound.download import LARGEST_PIECE, CallFailed, Download
from app.targets import TargetRefused
from app.version import version
from tests.outbound.servers import (
    Answer,
    Names,
    Open,
    Receive,
    Received,
    Receiver,
    bytes_of,
    dripping,
    make_tls,
    needs_openssl,
    pass_time,
    until,
)

MIB: Final = 2**20


def ok(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    rows = "".join(f"{row}\r\n" for row in (f"Content-Length: {len(body)}", *headers))
    return f"HTTP/1.1 {status}\r\n{rows}\r\n".encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    return ok(b"moved", f"Location: {location}", status=f"{status} Moved")


def by_path(answers: Mapping[str, bytes]) -> Answer:
    async def send(request: Received, writer: asyncio.StreamWriter) -> None:
        await bytes_of(answers[request.line.split()[1]])(request, writer)

    return send


def then(first: bytes, end: Callable[[asyncio.StreamWriter], None], *, heard: asyncio.Event | None = None) -> Answer:
    """Send this, and end the connection in this way; an RST overtakes what was not read yet, so wait for that."""

    async def send(request: Received, writer: asyncio.StreamWriter) -> None:
        await bytes_of(first)(request, writer)
        if heard is not None:
            await heard.wait()
        end(writer)

    return send


def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    # Who does not linger sends an RST.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def hang(request: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


class Source:
    """A body of so many MiB, how much of it was sent, and whether the other side stopped taking it."""

    def __init__(self, mib: int) -> None:
        self.mib = mib
        self.sent = 0
        self.stalled = asyncio.Event()

    async def __call__(self, request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {self.mib * MIB}\r\n\r\n".encode())
        for _ in range(self.mib):
            writer.write(bytes(MIB))
            self.sent += MIB
            draining = asyncio.ensure_future(writer.drain())
            await asyncio.wait([draining], timeout=0.5)
            if not draining.done():
                self.stalled.set()
            await draining


async def fetch(calls: Outbound, url: str, *, idle: float = 60) -> tuple[Download, bytes]:
    async with calls.get(url, idle_seconds=idle) as download:
        return download, b"".join([piece async for piece in download.pieces()])


async def failure(calls: Outbound, url: str, *, idle: float = 60) -> str:
    with pytest.raises(CallFailed) as failed:
        await fetch(calls, url, idle=idle)
    return str(failed.value)


async def refusal(calls: Outbound, url: str) -> str:
    with pytest.raises(TargetRefused) as refused:
        await fetch(calls, url)
    return str(refused.value)


# What is told


async def test_a_download_is_what_the_head_says_and_the_body(receive: Receive, open_outbound: Open) -> None:
    head = (
        "Content-Type: Image/PNG; charset=x",
        'ETag: W/"abc"',
        "Last-Modified: Wed, 25 Nov 2026 12:00:00 GMT",
        "Accept-Ranges: bytes",
    )
    receiver = await receive(ok(b"picture", *head))

    download, body = await fetch(open_outbound(), receiver.url("/a%2Fb?c=%3d", host="Files.example"))

    assert (download.status, download.length, body) == (200, 7, b"picture")
    assert download.url == receiver.url("/a%2Fb?c=%3d", host="files.example")
    assert (download.content_type, download.etag) == ("image/png", 'W/"abc"')
    assert (download.last_modified, download.accepts_ranges) == ("Wed, 25 Nov 2026 12:00:00 GMT", True)
    assert download.content_range is None
    (request,) = receiver.requests
    assert request.line == "GET /a%2Fb?c=%3d HTTP/1.1"
    assert request.headers == {
        "host": f"files.example:{receiver.port}",
        "user-agent": f"Framehook/{version()}",
        "accept": "*/*",
        "accept-encoding": "identity",
    }


async def test_what_a_head_does_not_say_is_none(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: \xff\r\n\r\n2\r\nhi\r\n0\r\n\r\n")

    download, body = await fetch(open_outbound(), receiver.url())

    assert (download.content_type, download.length, download.etag, download.last_modified) == (None,) * 4
    assert (download.accepts_ranges, download.content_range, body) == (False, None, b"hi")


async def test_a_part_that_was_asked_for_says_which_part_it_is(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive(ok(b"cd", "Content-Range: bytes 2-3/26", status="206 Partial Content"))

    asked = {"Range": "bytes=2-3", "If-Range": '"abc"'}
    async with open_outbound().get(receiver.url(), headers=asked, idle_seconds=60) as download:
        assert [piece async for piece in download.pieces()] == [b"cd"]

    assert (download.status, download.content_range, download.length) == (206, (2, 3, 26), 2)
    sent = receiver.requests[0].headers
    assert (sent["range"], sent["if-range"]) == ("bytes=2-3", '"abc"')


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oh", "304 Not Modified", "416 Range Not Satisfiable"])
async def test_any_status_is_a_download(receive: Receive, open_outbound: Open, status: str) -> None:
    download, _ = await fetch(open_outbound(), (await receive(ok(b"", status=status))).url())

    assert download.status == int(status[:3])


async def test_a_body_that_ends_with_its_connection_is_whole(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive(then(b"HTTP/1.1 200 OK\r\n\r\nall", hang_up))

    download, body = await fetch(open_outbound(), receiver.url())

    assert (download.length, body) == (None, b"all")


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_leads_to_another_host(receive: Receive, open_outbound: Open, status: int) -> None:
    elsewhere = await receive(ok(b"here"))
    receiver = await receive(redirect(elsewhere.url("/b?x=%2F", host="files.example"), status))

    download, body = await fetch(open_outbound(), receiver.url())

    assert (download.status, download.url, body) == (200, elsewhere.url("/b?x=%2F", host="files.example"), b"here")
    assert elsewhere.requests[0].line == "GET /b?x=%2F HTTP/1.1"


@pytest.mark.parametrize("location", ["/b/file?x=%2F", "file?x=%2F", "../b/./file?x=%2F", "?x=%2F"])
async def test_a_redirect_may_be_relative(receive: Receive, open_outbound: Open, location: str) -> None:
    receiver = await receive(by_path({"/b/file": redirect(location), "/b/file?x=%2F": ok(b"here")}))

    download, body = await fetch(open_outbound(), receiver.url("/b/file"))

    assert (download.url, body) == (receiver.url("/b/file?x=%2F"), b"here")


async def test_a_redirect_to_nowhere_is_an_answer(receive: Receive, open_outbound: Open) -> None:
    download, body = await fetch(open_outbound(), (await receive(ok(b"so", status="302 Found"))).url())

    assert (download.status, body) == (302, b"so")


async def test_the_headers_go_with_every_redirect(receive: Receive, open_outbound: Open) -> None:
    last = await receive()
    first = await receive(redirect(last.url()))

    async with open_outbound().get(first.url(), headers={"Range": "bytes=1-"}, idle_seconds=60):
        pass

    assert [receiver.requests[0].headers["range"] for receiver in (first, last)] == ["bytes=1-"] * 2


@pytest.mark.parametrize("redirects", [MOST_REDIRECTS, MOST_REDIRECTS + 1])
async def test_after_five_redirects_none_is_followed(receive: Receive, open_outbound: Open, redirects: int) -> None:
    answers = {f"/{hop}": redirect(f"/{hop + 1}") for hop in range(redirects)}
    receiver = await receive(by_path({**answers, f"/{redirects}": ok(b"here")}))

    if redirects > MOST_REDIRECTS:
        assert await failure(open_outbound(), receiver.url("/0")) == "too many redirects"
    else:
        assert (await fetch(open_outbound(), receiver.url("/0")))[1] == b"here"

    assert len(receiver.requests) == 1 + MOST_REDIRECTS


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://10.0.0.1/", "10.0.0.1 is a private address"),
        ("//169.254.169.254/latest/meta-data/", "169.254.169.254 is a cloud metadata address"),
        ("http://[::ffff:10.0.0.1]/", "10.0.0.1 is a private address"),
        ("http://private.example/", "private.example leads to no public address"),
        ("http://localhost/", "localhost leads to no public address"),
        ("http://2130706433/", "Must have an IPv4 address as four decimal numbers, such as 192.0.2.1"),
        ("http://user@files.example/", "Must not contain a user name or a password"),
        ("/\\10.0.0.1/", "Must not contain whitespace, control characters or backslashes"),
        ("http://[::1/", "Must have a host that can be read"),
        ("ftp://files.example/", "Must be an http or https URL"),
        ("file:///etc/passwd", "Must be an http or https URL"),
        ("data:,hello", "Must be an http or https URL"),
    ],
)
async def test_a_redirect_to_where_no_call_may_go_is_refused(
    receive: Receive, open_outbound: Open, location: str, why: str
) -> None:
    forbidden = {"private.example": ["10.0.0.1"], "localhost": ["::1"]}
    receiver = await receive(by_path({"/a": redirect("/b"), "/b": redirect(location)}))
    calls = open_outbound(lookup=lambda host: forbidden.get(host, ["127.0.0.1"]))

    assert await refusal(calls, receiver.url("/a", host="files.example")) == why


async def test_the_body_of_a_redirect_is_not_waited_for(receive: Receive, open_outbound: Open) -> None:
    last = await receive()
    first = await receive(dripping(f"HTTP/1.1 302 Found\r\nLocation: {last.url()}\r\n\r\n".encode()))

    assert (await fetch(open_outbound(), first.url()))[1] == b"hi"

    await until(lambda: first.open == 0)


async def test_the_first_url_is_judged_as_any_other(open_outbound: Open) -> None:
    calls = open_outbound(lookup=Names(["10.0.0.1"]))

    assert await refusal(calls, "http://10.0.0.1/") == "10.0.0.1 is a private address"
    assert await refusal(calls, "http://files.example/") == "files.example leads to no public address"


@needs_openssl
async def test_a_redirect_leads_out_of_tls_never(
    receive: Receive, open_outbound: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_tls(tmp_path)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting)
    plain = await receive(ok(b"read by all"))
    guarded = await receive(
        by_path({"/in": ok(b"secret"), "/out": redirect(plain.url(host="hooks.example"))}), tls=server
    )
    enter = await receive(redirect(guarded.url("/in", host="hooks.example", scheme="https")))
    calls = open_outbound()

    assert (await fetch(calls, enter.url()))[1] == b"secret"
    assert (
        await refusal(calls, guarded.url("/out", host="hooks.example", scheme="https"))
        == "Must not lead from https to http"
    )
    assert plain.connections == 0


# What ends a download


@pytest.mark.parametrize(
    ("head", "end", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", hang_up, "the answer broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", reset, "the answer broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", hang_up, "the answer broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", reset, "the answer broke off"),
        (b"HTTP/1.1 200 OK\r\n\r\nhalf", reset, "connection reset by peer"),
    ],
)
async def test_a_body_that_breaks_off_is_told_after_what_came_of_it(
    receive: Receive,
    open_outbound: Open,
    head: bytes,
    end: Callable[[asyncio.StreamWriter], None],
    words: str,
) -> None:
    heard = asyncio.Event()
    receiver = await receive(then(head, end, heard=heard))

    async with open_outbound().get(receiver.url(), idle_seconds=60) as download:
        pieces = download.pieces()
        assert await anext(pieces) == b"half"
        heard.set()
        with pytest.raises(CallFailed, match=words):
            await anext(pieces)


async def test_a_chunk_that_is_none_breaks_the_body_off_though_nobody_was_reading(
    receive: Receive, open_outbound: Open
) -> None:
    go_on = asyncio.Event()

    async def spoil(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await go_on.wait()
        writer.write(b"no chunk\r\n")

    receiver = await receive(spoil)

    async with open_outbound().get(receiver.url(), idle_seconds=60) as download:
        pieces = download.pieces()
        assert await anext(pieces) == b"half"
        go_on.set()
        await until(lambda: receiver.open == 0)
        with pytest.raises(CallFailed, match="the answer broke off"):
            await anext(pieces)


@pytest.mark.parametrize(
    ("answer", "words", "idle"),
    [
        (then(b"", hang_up), "the connection was closed without an answer", 60),
        (then(b"", reset), "connection reset by peer", 60),
        (bytes_of(b"SSH-2.0-OpenSSH_9.7\r\n"), "the answer is not valid HTTP", 60),
        (hang, "timed out: no answer within 0.25 s", 0.25),
        (dripping(b"HTTP/1.1 200 OK\r\nX-Slow: "), "timed out: no answer within 0.25 s", 0.25),
    ],
)
async def test_what_happens_before_the_head_is_told(
    receive: Receive, open_outbound: Open, answer: Answer, words: str, idle: float
) -> None:
    receiver = await receive(answer)

    assert (await failure(open_outbound(), receiver.url(), idle=idle)).startswith(words)


async def test_a_connection_that_cannot_be_made_is_told(open_outbound: Open) -> None:
    names = Names(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert await failure(open_outbound(), f"http://127.0.0.1:{unused.getsockname()[1]}/") == "connection refused"
    assert await failure(open_outbound(lookup=names), "http://nowhere.example/") == "DNS: name or service not known"


async def test_redirects_share_the_time_for_the_head(receive: Receive, open_outbound: Open) -> None:
    hops = itertools.count()

    async def slow(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        await bytes_of(redirect(f"/{next(hops)}"))(request, writer)

    assert await failure(open_outbound(), (await receive(slow)).url(), idle=0.5) == "timed out: no answer within 0.5 s"


async def test_a_body_that_stops_coming_is_timed_out(receive: Receive, open_outbound: Open) -> None:
    async def stop_half_way(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await hang(request, writer)

    receiver = await receive(stop_half_way)

    async with open_outbound().get(receiver.url(), idle_seconds=60) as download:
        download._idle_seconds = 0.25
        with pytest.raises(CallFailed, match=r"timed out: no byte for 0\.25 s"):
            _ = [piece async for piece in download.pieces()]


async def test_a_body_may_take_its_time_so_long_as_it_comes(receive: Receive, open_outbound: Open) -> None:
    wait, had = pass_time(), asyncio.Event()

    async def send_slowly(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
        for _ in range(3):
            had.clear()
            wait(60)
            writer.write(b"x")
            await had.wait()

    receiver, body = await receive(send_slowly), b""

    async with open_outbound().get(receiver.url(), idle_seconds=100) as download:
        async for piece in download.pieces():
            body += piece
            had.set()

    assert body == b"xxx"


async def test_the_time_that_the_reader_takes_is_not_the_sources(receive: Receive, open_outbound: Open) -> None:
    wait, had = pass_time(), asyncio.Event()

    async def send_when_asked(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
        for _ in range(3):
            had.clear()
            writer.write(b"x")
            await had.wait()

    receiver, body = await receive(send_when_asked), b""

    async with open_outbound().get(receiver.url(), idle_seconds=60) as download:
        async for piece in download.pieces():
            body += piece
            wait(100)
            had.set()

    assert body == b"xxx"


async def test_a_compressed_body_is_refused_and_its_status_told(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive(ok(gzip.compress(b"x"), "Content-Encoding: gzip", status="404 Not Found"))

    async with open_outbound().get(receiver.url(), idle_seconds=60) as download:
        assert download.status == 404
        with pytest.raises(CallFailed, match="the answer is compressed though it was not asked to be"):
            await anext(download.pieces())


async def test_an_identity_that_is_named_is_no_compression(receive: Receive, open_outbound: Open) -> None:
    receiver = await receive(ok(b"plain", "Content-Encoding: Identity"))

    assert (await fetch(open_outbound(), receiver.url()))[1] == b"plain"


# Memory and connections


async def test_a_reader_that_pauses_keeps_the_source_from_sending(receive: Receive, open_outbound: Open) -> None:
    """What the source has sent lies in the buffers of both systems, and in ours; a slow machine sees less of it."""
    source = Source(mib=64)
    receiver = await receive(source)

    async with open_outbound().get(receiver.url(), idle_seconds=60) as download:
        pieces = download.pieces()
        sizes = [len(await anext(pieces))]
        await asyncio.wait_for(source.stalled.wait(), 60)
        assert source.sent <= 16 * MIB
        sizes += [len(piece) async for piece in pieces]

    assert sum(sizes) == 64 * MIB
    assert max(sizes) <= LARGEST_PIECE


async def leave(calls: Outbound, receiver: Receiver) -> None:
    async with calls.get(receiver.url(), idle_seconds=60) as download:
        async for _ in download.pieces():
            return


async def fail(calls: Outbound, receiver: Receiver) -> None:
    with pytest.raises(OSError, match="disk full"):
        await store(calls, receiver)


async def store(calls: Outbound, receiver: Receiver) -> None:
    async with calls.get(receiver.url(), idle_seconds=60) as download:
        async for _ in download.pieces():
            raise OSError("disk full")


async def be_cancelled(calls: Outbound, receiver: Receiver) -> None:
    reading = asyncio.create_task(fetch(calls, receiver.url()))
    await until(lambda: receiver.open == 1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize("end", [leave, fail, be_cancelled])
async def test_a_download_that_is_not_read_to_its_end_leaves_no_connection(
    receive: Receive, open_outbound: Open, end: Callable[..., object]
) -> None:
    receiver = await receive(dripping(b"HTTP/1.1 200 OK\r\n\r\n"))

    await end(open_outbound(), receiver)  # type: ignore[misc]

    await until(lambda: receiver.open == 0)
    assert receiver.connections == 1


async def test_a_download_that_was_read_to_its_end_leaves_its_connection_to_the_next(
    receive: Receive, open_outbound: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "IDLE_SECONDS", 600)
    receiver, calls = await receive(ok(b"x" * MIB)), open_outbound()

    for _ in range(2):
        assert len((await fetch(calls, receiver.url()))[1]) == MIB

    assert receiver.connections == 1
