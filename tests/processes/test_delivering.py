"""`kill -9` of a service in the middle of its deliveries: each is made, and made again with the same id if nobody knows."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from standardwebhooks import Webhook

from app.lanes import PLACES_PER_TARGET
from app.simulator.server import RunningSimulator
from tests.processes.harness import Program, client, eventually, in_front_of, query, ready, submit

UNDELIVERED = "SELECT count(*) FROM deliveries WHERE status <> 'delivered'"


class Receiver(ThreadingHTTPServer):
    """Notes what it gets, and answers once it may."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.may_answer = threading.Event()
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/hook"

    @property
    def ids(self) -> Counter[str]:
        """How often each event came."""
        return Counter(headers["webhook-id"] for headers, _ in self.received)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.server.may_answer.wait(60)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.05,))
        thread.start()
        yield receiver
        receiver.may_answer.set()
        receiver.shutdown()
        thread.join(10)


@pytest.mark.timeout(120)
def test_a_service_that_is_killed_while_it_delivers_delivers_everything_and_repeats_with_the_same_ids(
    launch: Callable[..., Program], simulate: Callable[..., RunningSimulator], database_url: str
) -> None:
    """The leases of those that were being made end after 25 seconds; then another process makes them again."""
    settings = in_front_of(simulate(hold=True), database_url, allowed_targets="127.0.0.0/8")
    service = launch("serve", **settings)
    with receiving() as receiver, client(ready(service)) as caller:
        asked = {"url": receiver.url, "types": ["job.queued"]}
        secret = caller.post("/v1/subscriptions", json=asked).json()["secret"]
        jobs = {submit(caller, f"picture {number}", Prefer="respond-async") for number in range(40)}
        # As many as a target has places are being received; nothing is recorded of them.
        eventually(lambda: len(receiver.received) >= PLACES_PER_TARGET[False])
        service.kill_all()
        in_doubt = receiver.ids
        receiver.may_answer.set()

        service = launch("serve", **settings)
        ready(service)
        eventually(lambda: query(database_url, UNDELIVERED) == [0], seconds=60)

        told = {json.loads(body)["data"]["id"] for _, body in receiver.received}
        assert told == jobs
        assert {count - in_doubt[event] for event, count in receiver.ids.items()} == {1}
        for headers, body in receiver.received:
            Webhook(secret).verify(body, headers)
        bodies = {(headers["webhook-id"], body) for headers, body in receiver.received}
        assert len(bodies) == len(jobs), "a repetition was not the same event"
