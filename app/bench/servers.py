"""Processes that answer: each is started for its round, in a folder without settings of its own, and none is left."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from app.bench.stage import Stage
from app.config import as_environment
from app.errors import StartupError
from app.serving import listen, surroundings

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 40.0


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that answers."""

    pid: int
    port: int


@asynccontextmanager
async def service(stage: Stage, *, workers: int = 1, loops: bool = True) -> AsyncIterator[Serving]:
    """The product, by its own command."""
    port = free_port()
    settings = stage.settings.model_copy(update={"port": port, "public_base_url": f"http://127.0.0.1:{port}"})
    command = ["-m", "app", "serve", "--port", str(port), "--workers", str(workers), *([] if loops else ["--no-loops"])]
    async with serving(stage, "service", command, as_environment(settings), port, ready="/readyz") as found:
        yield found


@asynccontextmanager
async def serving(
    stage: Stage, name: str, arguments: Sequence[str], environment: Mapping[str, str], port: int, *, ready: str
) -> AsyncIterator[Serving]:
    """Start Python with these arguments; wait until the path `ready` is answered 200; stop it at the end."""
    log = stage.folder / "logs" / f"{name}.log"
    with log.open("ab") as written:
        child = subprocess.Popen(  # noqa: ASYNC220 - starting takes no time worth another thread
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            cwd=stage.folder,
            env=surroundings(environment),
            start_new_session=True,
        )
    try:
        await _await_ready(child, port, ready, name)
        yield Serving(child.pid, port)
    finally:
        await asyncio.to_thread(_stop, child)


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with listen("127.0.0.1", 0) as probe:
        return int(probe.getsockname()[1])


async def _await_ready(child: subprocess.Popen[bytes], port: int, path: str, name: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise StartupError(f"the {name} ended with exit code {child.returncode} instead of starting")
        if await asyncio.to_thread(_answers, port, path):
            return
        await asyncio.sleep(0.05)
    raise StartupError(f"the {name} was not ready within {START_SECONDS:g} s")


def _answers(port: int, path: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
