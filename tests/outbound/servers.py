"""Small servers that answer byte for byte as a test wants, names that lead anywhere, and calls to them."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from app.outbound.client import Outbound, Reply

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


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


def make_tls(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate that it made itself."""
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    subject = ["-subj", "/CN=hooks.example", "-addext", "subjectAltName=DNS:hooks.example"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *subject]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    return tls


async def post(calls: Outbound, url: str, body: bytes = b"{}", seconds: float = 60) -> Reply:
    return await calls.post(url, body, HEADERS, timeout_seconds=seconds)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def pass_time() -> Callable[[float], None]:
    """Have this event loop's clock go on by as many seconds as it is told, beside what passes by itself."""
    loop, passed = asyncio.get_running_loop(), [0.0]
    now = loop.time
    loop.time = lambda: now() + sum(passed)  # type: ignore[method-assign]
    return passed.append


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
