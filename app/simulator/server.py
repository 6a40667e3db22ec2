"""Run the simulator: `run` until a signal, or `RunningSimulator` in a thread with a loop of its own."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from contextlib import closing, suppress
from http.client import HTTPConnection
from types import TracebackType
from typing import Any, Self

import msgspec
import uvicorn

from app.errors import StartupError
from app.simulator.api import create_app
from app.simulator.config import SimulatorConfig
from app.simulator.world import World

_START_SECONDS = 60.0


class _Server(uvicorn.Server):
    """uvicorn that cuts hanging answers before it waits for answers to finish."""

    def __init__(self, world: World) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(world),
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                lifespan="on",
                timeout_graceful_shutdown=1,
                timeout_keep_alive=75,  # longer than clients keep theirs: a POST on a closed one has no answer
                backlog=2048,
            )
        )
        self.world = world

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.world.close()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Bind the simulator's address; raise StartupError where it is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartupError(f"the simulator cannot listen on {host}:{port}: {reason}") from None


def run(config: SimulatorConfig | None = None, host: str = "127.0.0.1", port: int = 8001) -> None:
    """Serve until Ctrl-C or SIGTERM, then return; raise StartupError where the address is taken."""
    sock = listen(host, port)
    server = _Server(World(config))

    def leave(*_: object) -> None:
        server.should_exit = True

    # uvicorn handles signals while it serves and raises them again when it is done. Around that, they ask it to leave:
    # one that comes early is heard, and one that comes back does not end the process as if by accident.
    previous = signal.signal(signal.SIGTERM, leave)
    try:
        with suppress(KeyboardInterrupt):
            server.run(sockets=[sock])
    finally:
        signal.signal(signal.SIGTERM, previous)


class RunningSimulator:
    """A simulator in a background thread, on a free port of 127.0.0.1 unless another is given.

    Use it as a context manager, or by `start` and `stop`. From outside its thread steer it over HTTP: `tell` and `ask`
    do so, blocking, and so must not be called from an event loop that the simulator's webhooks wait for.
    """

    def __init__(self, config: SimulatorConfig | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.world = World(config)
        self._socket = listen(host, port)
        self.host, self.port = self._socket.getsockname()[:2]
        self.url = f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
        self._server = _Server(self.world)
        self._thread = threading.Thread(target=self._serve, name="simulator", daemon=True)

    def start(self) -> Self:
        """Start serving; return when requests are answered."""
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise StartupError(f"the simulator did not start on {self.url}")
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        """Stop within a second: jobs are left, webhooks cancelled, hanging answers cut."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_START_SECONDS)
        self._socket.close()

    def tell(self, path: str, **body: Any) -> Any:
        """Post to `/sim/{path}` and return what it answers: `tell("faults", drop=1)`."""
        return self._call("POST", path, msgspec.json.encode(body))

    def ask(self, path: str) -> Any:
        """Get `/sim/{path}`: `ask("books")`."""
        return self._call("GET", path, None)

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        with closing(HTTPConnection(self.host, self.port, timeout=30)) as connection:
            connection.request(method, f"/sim/{path}", body)
            answer = connection.getresponse()
            content = answer.read()
        if answer.status >= 400:
            raise ValueError(f"/sim/{path}: {answer.status} {content.decode()}")
        return msgspec.json.decode(content)

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
