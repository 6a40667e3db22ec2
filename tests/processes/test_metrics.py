"""Two processes on one port tell the same, count together, and forget nothing when one of them is killed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from app.simulator.server import RunningSimulator
from tests.harness import NO_TLS
from tests.processes.harness import (
    FLUX,
    KEY,
    SUBMIT,
    Program,
    client,
    eventually,
    query,
    reachable,
    ready,
    stopped,
    submit,
)


def test_totals_of_two_workers_add_up_and_never_go_back_and_a_session_is_good_at_both(
    launch: Callable[..., Program], simulator: RunningSimulator, database_url: str
) -> None:
    service = launch("serve", "--workers", "2", **reachable(simulator, database_url))
    url = ready(service)
    eventually(lambda: query(database_url, ALIVE) == [2])
    for busy in workers(service):
        with stopped(busy):  # all that comes now is the other one's
            for number in range(5):
                with client(url, timeout=60) as fresh:
                    submit(fresh, f"fresh {number}")
    with client(url) as kept:
        for number in range(10):
            submit(kept, f"kept {number}")
        assert kept.post(SUBMIT, json={}).status_code == 400

    totals = Totals(url)
    eventually(lambda: totals.read() == (20, 1, 20))
    (each,) = query(
        database_url, "SELECT count(*) FROM processes WHERE measures ? E'framehook_submit_seconds_count\\t2xx'"
    )
    assert each == 2

    session = signed_in(url)
    for _ in range(20):
        with httpx.Client(base_url=url, cookies=session, trust_env=False, verify=NO_TLS, timeout=60) as fresh:
            answer = fresh.get("/ops/audit")
            assert (answer.status_code, "Sign in" in answer.text) == (200, False)

    (worker, *_) = workers(service)
    worker.send_signal(signal.SIGKILL)
    eventually(lambda: len(workers(service)) == 2 and worker.pid not in [one.pid for one in workers(service)])
    eventually(lambda: query(database_url, KNOWN) == [3])
    query(
        database_url,
        f"UPDATE processes SET seen_at = now() - interval '2 minutes' WHERE pid = {worker.pid} RETURNING 1",
    )
    eventually(lambda: (totals.read()[0], query(database_url, ALIVE)) == (20, [2]))
    assert totals.read() == (20, 1, 20)
    with client(url) as fresh:
        for number in range(3):
            submit(fresh, f"after {number}")
    eventually(lambda: totals.read() == (23, 1, 23))
    assert service.stop() == 0
    assert service.leaves_nothing()


KNOWN = "SELECT count(*) FROM processes WHERE role = 'serve'"
ALIVE = "SELECT count(*) FROM processes WHERE role = 'serve' AND folded_at IS NULL"


class Totals:
    """What fresh connections are told, which is never less than before."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._last: dict[Any, float] = {}

    def read(self) -> tuple[float, float, float]:
        """Submissions that were accepted and refused, and jobs in the log."""
        body = httpx.get(f"{self._url}/metrics", trust_env=False, verify=NO_TLS, timeout=60).text
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(body)
            if family.type in ("counter", "histogram")
            for sample in family.samples
        }
        assert {key for key, value in self._last.items() if found.get(key, -1) < value} == set()
        self._last = found
        accepted, refused = (found["framehook_submit_seconds_count", answer] for answer in ("2xx", "4xx"))
        return accepted, refused, found.get(("framehook_jobs_submitted_total", FLUX["model"], "admin"), 0)


def signed_in(url: str) -> httpx.Cookies:
    with httpx.Client(base_url=url, trust_env=False, verify=NO_TLS, timeout=60) as browser:
        assert browser.post("/ops/sign-in", data={"key": KEY}).status_code == 303
        return browser.cookies


def workers(service: Program) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(service.pid).children():
        with suppress(psutil.NoSuchProcess):  # a zombie is one too
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found
