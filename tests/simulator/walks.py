"""What every walk with the simulator needs: a body, a receiver of webhooks, and waiting for a condition."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import httpx

from app.simulator.server import RunningSimulator

KEY = "afk_simulator_key_for_tests"
OTHER_KEY = "afk_of_another_account"
MODEL = "flux-1.1-pro-ultra"
SUBMIT = "/v2/images/generate"
STYLE = {"name": "woodcut", "subjectKind": "style"}
PNG = b"\x89PNG\r\n\x1a\n"
Found = TypeVar("Found")


def flux(prompt: str = "a red fox in the snow", **fields: Any) -> dict[str, Any]:
    """Make a body for Flux 1.1 Pro Ultra."""
    return {"model": MODEL, "prompt": prompt, **fields}


def pictures(count: int = 15, content: bytes = PNG) -> list[tuple[str, bytes]]:
    """Make the files of a LoRA's form."""
    return [("images", content) for _ in range(count)]


def eventually(condition: Callable[[], Found], seconds: float = 60.0) -> Found:
    """Wait until a condition holds and return what it gave; fail when the deadline passes."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError("the condition did not come to hold in time")
        time.sleep(0.005)


def submit(vendor: httpx.Client, path: str = SUBMIT, **fields: Any) -> str:
    """Submit a generation that is to be accepted; return its id."""
    answer = vendor.post(path, json=fields if "model" in fields or "action" in fields else flux(**fields))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["jobId"])


def at_once(
    count: int, vendor: httpx.Client, trust: ssl.SSLContext, send: Callable[[httpx.Client], None]
) -> list[threading.Thread]:
    """Begin so many calls, each with a client of its own like this one."""

    def call() -> None:
        with httpx.Client(
            base_url=vendor.base_url, headers=vendor.headers, trust_env=False, timeout=60, verify=trust
        ) as client:
            send(client)

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def get_job(vendor: httpx.Client, job_id: str) -> dict[str, Any]:
    """Poll a job."""
    answer = vendor.get(f"/v2/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ended(vendor: httpx.Client, job_id: str) -> dict[str, Any]:
    """Wait until a job has ended; return it."""

    def final() -> dict[str, Any] | None:
        job = get_job(vendor, job_id)
        return job if job["status"] in ("COMPLETED", "FAILED", "CANCELLED") else None

    found = eventually(final)
    assert found is not None
    return found


def counters(simulator: RunningSimulator) -> dict[str, Any]:
    """Read the books' counters."""
    return dict(simulator.ask("books?part=counters")["counters"])


def sign(body: bytes, key: str = KEY, *, as_hex: bool = False) -> str:
    """Sign as the facts about the vendor say, apart from the simulator's own code."""
    digest = hashlib.sha256(key.encode())
    secret = digest.hexdigest().encode() if as_hex else digest.digest()
    return hmac.new(secret, body, "sha256").hexdigest()


@dataclass(frozen=True)
class Received:
    """One webhook as it arrived."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.raw))

    @property
    def signature(self) -> str | None:
        return self.headers.get("x-webhook-signature")


class Receiver:
    """A real HTTP server that keeps what it is sent. It answers the next of `answers`, 200 when they are used up."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: list[int] = []
        self.on_receipt: Callable[[Received], None] = lambda _: None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                webhook = Received(self.path, headers, raw)
                receiver.on_receipt(webhook)
                receiver.received.append(webhook)
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def events(self) -> list[str]:
        """The events so far, in order of arrival."""
        return [str(webhook.body["event"]) for webhook in self.received]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
