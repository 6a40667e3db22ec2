"""The service's processes: started, killed at one blow, started again at once, and at the end none is left.

Only processes that were started here are ever signalled, and the PostgreSQL that they started in the run's own folder.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from app import embedded
from app.errors import StartupError
from app.faults.plan import Strike, environment_for
from app.serving import surroundings

STOP_SECONDS: Final = 40
POSTMASTER_SECONDS: Final = 60.0
WATCH_SECONDS: Final = 0.1
PORTS: Final = range(20_000, 30_000)
"""Below the ports that systems give to outgoing connections: one of those could take a killed service's own."""


class Process:
    """One command of ours in a session of its own, so that a terminal's Ctrl-C reaches only the one who stops it."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self._command = [sys.executable, "-m", "app", *arguments]
        self._environment = environment
        self._folder = folder
        self.log = folder / "logs" / f"{name}.log"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it says is appended to its log."""
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """Whether it was started and is gone."""
        return self._child is not None and self._child.poll() is not None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        if self._child is not None:
            self._child.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Wait until it is gone; tell whether it is."""
        with suppress(subprocess.TimeoutExpired):
            if self._child is not None:
                self._child.wait(seconds)
            return True
        return False


class Fleet:
    """All processes of a run. As a context manager it starts them, and leaves none behind, PostgreSQL included."""

    def __init__(self, folder: Path, upstream_url: str, processes: int) -> None:
        self.data_dir = folder / "data"
        self.killed: Counter[str] = Counter()
        self.ended_by_themselves = 0
        (folder / "logs").mkdir(exist_ok=True)
        ports = _free_ports(processes)
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        environments = [surroundings(environment_for(upstream_url, self.data_dir, url)) for url in self.urls]
        self.services = [
            Process(f"service-{number}", ("serve", "--port", str(port), "--no-loops"), around, folder)
            for number, (port, around) in enumerate(zip(ports, environments, strict=True))
        ]
        # A worker writes webhook URLs too, and they lead to the service of the same number.
        self.workers = [
            Process(f"worker-{number}", ("worker",), around, folder) for number, around in enumerate(environments)
        ]

    @property
    def all(self) -> list[Process]:
        """Every process."""
        return [*self.services, *self.workers]

    def __enter__(self) -> Self:
        try:
            for process in self.all:
                process.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def strike(self, strike: Strike) -> str | None:
        """Kill whom the strike names and start it again at once; return who that was.

        A postmaster is waited for, if none runs; the services start it again themselves. None: it did not come back.
        """
        victims: list[Process] = {
            "service": [self.services[strike.victim % len(self.services)]],
            "worker": [self.workers[strike.victim % len(self.workers)]],
            "postmaster": [],
            "everything": self.all,
        }[strike.kind]
        if strike.kind in ("postmaster", "everything") and not await self._kill_postmaster():
            return None
        for process in victims:
            process.signal(signal.SIGKILL)
        for process in victims:
            process.wait(STOP_SECONDS)
            process.start()
        self.killed[strike.kind] += 1
        return victims[0].name if len(victims) == 1 else strike.kind

    async def watch(self) -> None:
        """Start again whatever ended without having been killed, as a supervisor does: a start may find no database."""
        while True:
            for process in self.all:
                if process.ended:
                    self.ended_by_themselves += 1
                    process.start()
            await asyncio.sleep(WATCH_SECONDS)

    def stop(self) -> None:
        """Ask all processes to end, kill those that do not, and stop a PostgreSQL that they left."""
        for process in self.all:
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.all:
            if not process.wait(max(0.0, deadline - time.monotonic())):
                process.signal(signal.SIGKILL)
                process.wait(STOP_SECONDS)

    def stop_database(self) -> None:
        """Stop a PostgreSQL whose last user was killed; nobody may use it any more."""
        if find_postmaster(self.data_dir) is not None:
            embedded.start(self.data_dir).close()

    async def _kill_postmaster(self) -> bool:
        deadline = time.monotonic() + POSTMASTER_SECONDS
        while time.monotonic() < deadline:
            if (pid := find_postmaster(self.data_dir)) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return True
            await asyncio.sleep(0.02)
        return False


def find_postmaster(data_dir: Path) -> int | None:
    """The process id of the embedded PostgreSQL in a data folder, None where none runs.

    The lock is the proof: its processes hold it, and without it the number in the file may by now be anyone's.
    """
    with suppress(FileNotFoundError, ValueError), (data_dir / "server.lock").open() as lock:
        pid = int((data_dir / "cluster" / "postmaster.pid").read_text().split("\n")[0])
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return pid
    return None


def _free_ports(wanted: int) -> list[int]:
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == wanted:
            return found
    raise StartupError(f"no {wanted} ports of 127.0.0.1 between {PORTS[0]} and {PORTS[-1]} are free")
