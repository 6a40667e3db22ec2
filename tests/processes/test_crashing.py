"""`kill -9` of anything, in the middle of everything: what was accepted completes, and nothing is paid twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.simulator.server import RunningSimulator
from tests.processes.harness import (
    FLUX,
    SUBMIT,
    Program,
    client,
    counters,
    eventually,
    kill_postmaster,
    prompts,
    reachable,
    read,
    ready,
)

SUBMISSIONS = 80


class Storm:
    """Callers that submit at once and, as clients do, repeat with the same Idempotency-Key until they are answered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._end = time.monotonic() + 150
        self.accepted: dict[str, str] = {}
        self.others: set[int] = set()

    def run(self, prompt: str) -> None:
        """Submit one generation, and again, until a 202."""
        with client(self._url) as caller:
            while time.monotonic() < self._end:
                try:
                    answer = caller.post(SUBMIT, json=FLUX | {"prompt": prompt}, headers={"Idempotency-Key": prompt})
                except httpx.TransportError:
                    time.sleep(0.05)
                    continue
                if answer.status_code == 202:
                    self.accepted[prompt] = answer.json()["jobId"]
                    return
                self.others.add(answer.status_code)
                time.sleep(0.05)


@pytest.mark.timeout(240)
def test_no_accepted_job_is_lost_or_paid_twice_whatever_is_killed(
    launch: Callable[..., Program], simulate: Callable[..., RunningSimulator], folder: Path
) -> None:
    simulator = simulate(max_concurrent_jobs=SUBMISSIONS)
    # The first ones tell nobody that they were accepted: those at least must be sent again.
    unheard = ["accept_then_hang+no_webhooks"] * 4
    simulator.tell("faults", accept_then_hang=0.1, accept_then_cut=0.1, no_webhooks=0.3, next=unheard)
    settings = reachable(simulator, upstream_timeout_seconds=1, inline_seconds=1, reconcile_after_seconds=0.5)
    service = launch("serve", **settings)
    storm = Storm(ready(service))
    with ThreadPoolExecutor(16) as threads:
        sent = [threads.submit(storm.run, f"storm {number}") for number in range(SUBMISSIONS)]

        # First the service alone, while the upstream has taken jobs whose acceptance nobody here has recorded.
        eventually(lambda: len(storm.accepted) >= 10 and counters(simulator)["hanging_now"] >= 1)
        service.kill_all()
        service = launch("serve", **settings)

        # Then its database too, as when the power goes.
        ready(service)
        eventually(lambda: len(storm.accepted) >= 30 and counters(simulator)["hanging_now"] >= 1)
        kill_postmaster(folder / ".framehook")
        service.kill_all()
        service = launch("serve", **settings)

        for one in sent:
            one.result(180)
    assert len(storm.accepted) == SUBMISSIONS
    assert storm.others <= {503}
    with ThreadPoolExecutor(16) as threads, client(service.url) as caller:
        jobs = list(threads.map(lambda job_id: read(caller, job_id, wait=60), storm.accepted.values()))
        listed = caller.get("/v2/jobs", params={"limit": 100}).json()["jobs"]
    assert {job["status"] for job in jobs} == {"COMPLETED"}
    assert {job["id"] for job in listed} == set(storm.accepted.values())
    assert sorted(prompts(simulator)) == sorted(storm.accepted)
    assert counters(simulator)["replays"] >= 1, "nothing was sent again, so nothing was put to the test"
