"""Large uploads pass through a real process in little memory, and arrive as they were sent."""

from __future__ import annotations

import hashlib
import random
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psutil
import pytest

from app.simulator.server import RunningSimulator
from tests.processes.harness import KEY, Program, client, eventually, in_front_of, ready, status_of

SIZE = 50 * 1024 * 1024
FORM = "multipart/form-data; boundary=ours"
HEAD = b'--ours\r\nContent-Disposition: form-data; name="file"; filename="film.mp4"\r\n\r\n'
TAIL = b"\r\n--ours--\r\n"
MOST_GROWTH = 16_000_000


def film() -> Iterator[bytes]:
    """A film of 50 MB, in pieces, the same every time."""
    dice = random.Random(50)
    magic = b"\0\0\0\x18ftypmp42"
    yield magic + dice.randbytes(65_536 - len(magic))
    for _ in range(SIZE // 65_536 - 1):
        yield dice.randbytes(65_536)


@pytest.fixture
def service(launch: Callable[..., Program], simulate: Callable[..., RunningSimulator], database_url: str) -> Program:
    """A process in front of a simulator."""
    return launch("serve", **in_front_of(simulate(), database_url))


@pytest.mark.parametrize("how", ["Content-Length", "chunked"])
def test_a_film_of_50_mb_passes_in_little_memory(service: Program, how: str) -> None:
    hashed = hashlib.sha256()
    most = 0
    process = psutil.Process(service.pid)

    def body() -> Iterator[bytes]:
        nonlocal most
        yield HEAD
        for piece in film():
            hashed.update(piece)
            yield piece
            most = max(most, process.memory_info().rss)
        yield TAIL

    length = {"Content-Length": str(len(HEAD) + SIZE + len(TAIL))} if how == "Content-Length" else {}
    with client(ready(service), timeout=50) as caller:
        small = caller.post("/v2/uploads", files={"file": b"\x89PNG\r\n\x1a\n"})
        assert small.status_code == 201, small.text
        before = most = process.memory_info().rss
        answer = caller.post("/v2/uploads", content=body(), headers={"Content-Type": FORM, **length})
        most = max(most, process.memory_info().rss)
        assert answer.status_code == 201, answer.text
        upload: dict[str, Any] = answer.json()
        assert (upload["kind"], upload["byteSize"]) == ("video", SIZE)
        kept = caller.get(upload["url"]).content
    print(f"{how}: {before / 1e6:.1f} MB before, {(most - before) / 1e6:.1f} MB more at most")
    assert hashlib.sha256(kept).digest() == hashed.digest()
    assert most - before < MOST_GROWTH


def test_an_upload_that_is_under_way_when_the_service_is_told_to_stop_is_finished(service: Program) -> None:
    host, port = ready(service).removeprefix("http://").split(":")
    body = HEAD + b"\x89PNG\r\n\x1a\n" + bytes(1_000_000) + TAIL
    lines = (
        "POST /v2/uploads HTTP/1.1",
        "Host: x",
        f"X-API-Key: {KEY}",
        f"Content-Type: {FORM}",
        "Expect: 100-continue",
    )
    with closing(socket.create_connection((host, int(port)), timeout=30)) as caller, caller.makefile("rb") as answers:
        caller.sendall("\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode())
        # What the service has not begun to read when it is told to stop is refused: not even its connection may be taken.
        assert [answers.readline(), answers.readline()] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
        caller.sendall(body[:500_000])
        service.signal(signal.SIGTERM)
        eventually(lambda: status_of(f"http://{host}:{port}/healthz") is None)
        caller.sendall(body[500_000:])
        said = answers.read()
    assert said.startswith(b"HTTP/1.1 201 ")
    assert b'"byteSize":1000008' in said
    assert service.wait() == 0
