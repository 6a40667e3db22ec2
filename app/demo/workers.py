"""The demo's workers: child processes that are started again when they end, and that end with the demo however it does.

Each holds one end of a pipe as its standard input: where the demo is killed, the kernel closes the other, and they leave.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from app.config import Settings, as_environment
from app.serving import surroundings

COUNT: Final = 2
LOOK_SECONDS: Final = 0.1
LEAST_SECONDS: Final = 0.5
"""A worker is not started more often than that, should it end at once every time."""

STOP_SECONDS: Final = 15.0


@dataclass(slots=True)
class Worker:
    """A place for a process, and the process that is in it now."""

    child: subprocess.Popen[bytes]
    started_at: datetime
    began: float


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that was killed on request."""

    pid: int
    at: datetime


class Workers:
    """Two workers, for as long as this context manager is open."""

    def __init__(self, settings: Settings) -> None:
        self.restart_count = 0
        self.last_kill: Kill | None = None
        self._environment: Mapping[str, str] = surroundings(as_environment(settings))
        self._places: list[Worker] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watch-workers", daemon=True)

    def __enter__(self) -> Self:
        self._places = [self._start() for _ in range(COUNT)]
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        with self._lock:
            children = [place.child for place in self._places]
        for child in children:
            child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in children:
            try:
                child.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    @property
    def alive(self) -> list[tuple[int, datetime]]:
        """The processes that run now, by id, and since when."""
        with self._lock:
            return [(place.child.pid, place.started_at) for place in self._places if place.child.poll() is None]

    def kill_oldest(self) -> int | None:
        """Kill the worker that has run longest, as the kernel would, and return its process id; None where none runs."""
        with self._lock:
            running = [place for place in self._places if place.child.poll() is None]
            if not running:
                return None
            child = min(running, key=lambda place: place.began).child
            child.kill()
            self.last_kill = Kill(child.pid, datetime.now(UTC))
            return child.pid

    def _watch(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            with self._lock:
                if self._closing.is_set():
                    return
                for number, place in enumerate(self._places):
                    if place.child.poll() is not None and time.monotonic() - place.began >= LEAST_SECONDS:
                        self._places[number] = self._start()
                        self.restart_count += 1

    def _start(self) -> Worker:
        child = subprocess.Popen(
            [sys.executable, "-m", "app", "worker", "--with-stdin"],
            stdin=subprocess.PIPE,
            cwd="/",  # where no `.env` says anything else
            env=self._environment,
            start_new_session=True,  # the terminal's Ctrl-C is the demo's, which ends them in its own time
        )
        return Worker(child, datetime.now(UTC), time.monotonic())
