"""Somebody who subscribed to everything: notes the ids of the events that come, and fails now and then as receivers do."""

from __future__ import annotations

import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Final, Self

from app.faults.plan import Plan

FAILING_SHARE: Final = 0.02
"""Of the deliveries, those that are answered with a 500 and must come again; each event's at most once, because the third
repetition comes after minutes."""


class Subscriber(ThreadingHTTPServer):
    """A receiver on a free port of 127.0.0.1, for as long as it is entered. `told` holds what it has acknowledged."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, plan: Plan) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.url = f"http://127.0.0.1:{self.server_port}/events"
        self.told: set[str] = set()
        self.deliveries = 0
        self._failed: set[str] = set()
        self._dice = random.Random(f"subscriber {plan.seed}")
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="subscriber", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self.server_close()

    def take(self, event_id: str) -> int:
        """Note one delivery; the status that it is answered with."""
        with self._lock:
            self.deliveries += 1
            if event_id not in self._failed and self._dice.random() < FAILING_SHARE:
                self._failed.add(event_id)
                return 500
            self.told.add(event_id)
            return 204

    def handle_error(self, *_: object) -> None:
        """Pass over a sender that was killed in the middle of its request."""


class _Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Subscriber

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.server.take(self.headers["webhook-id"]))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
