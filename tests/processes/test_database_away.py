"""The database goes away under a running service: everybody is told to come again, and when it is back all goes on."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx

from app.simulator.server import RunningSimulator
from tests.processes.harness import (
    FLUX,
    SUBMIT,
    Program,
    client,
    counters,
    eventually,
    kill_postmaster,
    postgres_is_gone,
    prompts,
    reachable,
    read,
    ready,
    status_of,
    submit,
)

OUTAGE_SECONDS = 10
WHILE_AWAY = {"at once 1": "wait=5", "later 1": "respond-async", "at once 2": "wait=5", "later 2": "respond-async"}
"""What is submitted, over and over, while the database is away: the prompt, which is its key too, and its `Prefer`."""


def test_a_database_that_is_away_for_ten_seconds_costs_503s_and_nothing_is_half_done(
    launch: Callable[..., Program], simulate: Callable[..., RunningSimulator], folder: Path
) -> None:
    home = folder / ".framehook"
    # A webhook is sent seven times within 7 s or little more, and next after 14 s, when the database should be back.
    simulator = simulate(hold=True, webhook_retries=50, webhook_backoff_seconds=0.11)
    service = launch("serve", **reachable(simulator, max_in_flight=2, reconcile_after_seconds=3))
    with client(ready(service)) as caller, ThreadPoolExecutor(1) as threads:
        told, untold = submit(caller, "told"), submit(caller, "untold")
        queued = [submit(caller, f"queued {number}", Prefer="respond-async") for number in range(3)]
        eventually(lambda: counters(simulator)["accepted"] == 2)
        simulator.tell(f"jobs/{told}/progress", progress=40, wait=True)
        (progress,) = webhooks(simulator, told)
        assert progress["answer_status"] == 200
        waiting = threads.submit(caller.get, f"/v2/jobs/{told}", params={"wait": 20})

        with no_revival(home):
            kill_postmaster(home)
            # Its other processes notice and leave; from the last one's end on nobody can have anything of it.
            eventually(lambda: postgres_is_gone(home))
            end = time.monotonic() + OUTAGE_SECONDS
            # Both jobs end upstream. The one's webhook says so, again and again; the other has to be asked after.
            simulator.tell(f"jobs/{told}/finish")
            simulator.tell(f"jobs/{untold}/finish", announce=False)
            simulator.tell("config", hold=False)
            calls = cycle(WHILE_AWAY.items())
            while time.monotonic() < end:
                prompt, prefer = next(calls)
                headers = {"Idempotency-Key": prompt, "Prefer": prefer}
                assert_told_to_come_again(
                    caller.post(SUBMIT, json=FLUX | {"prompt": prompt}, headers=headers),
                    caller.get("/v2/jobs"),
                    caller.get(f"/v2/jobs/{told}"),
                    caller.get(f"/v2/jobs/{told}", params={"wait": 5}),
                    caller.post(progress["url"], content=progress["body"], headers=progress["headers"]),
                )
            assert_told_to_come_again(waiting.result(30))
            sends = eventually(lambda: webhooks(simulator, told)[1:] if len(webhooks(simulator, told)) >= 4 else [])
            assert {send["answer_status"] for send in sends} == {503}
            assert status_of(f"{service.url}/readyz") == 503
            assert status_of(f"{service.url}/healthz") == 200
            assert counters(simulator)["submissions"] == 2, "something was sent that could not be written down"

        eventually(lambda: status_of(f"{service.url}/readyz") == 200)
        accepted = [told, untold, *queued]
        listed = caller.get("/v2/jobs", params={"limit": 100}).json()["jobs"]
        assert {job["id"] for job in listed} == set(accepted), "a job was kept whose caller was told otherwise"
        assert [read(caller, job, wait=60)["status"] for job in accepted] == ["COMPLETED"] * 5
        eventually(lambda: webhooks(simulator, told)[-1]["answer_status"] == 200)

        # Of what was refused no key was kept either: its repetition makes the job, and a further one finds that.
        repeated = [submit(caller, prompt, Idempotency_Key=prompt) for prompt in (*WHILE_AWAY, *WHILE_AWAY)]
        assert repeated[:4] == repeated[4:]
        assert [read(caller, job, wait=60)["status"] for job in repeated[:4]] == ["COMPLETED"] * 4
    wanted = ["told", "untold", *(f"queued {number}" for number in range(3)), *WHILE_AWAY]
    assert sorted(prompts(simulator)) == sorted(wanted)
    assert counters(simulator)["replays"] == 0

    failures = [line for line in service.log if line["event"] == "loop.failed"]
    assert {line["loop"] for line in failures} >= {"dispatch", "reconcile"}
    assert [line for line in service.log if "exception" in line] == [], "an outage is no traceback"
    assert len([line for line in service.log if line["event"] == "service.started"]) == 1
    assert service.stop() == 0
    assert service.leaves_nothing()
    assert postgres_is_gone(home)


def assert_told_to_come_again(*answers: httpx.Response) -> None:
    """Hold each of these to a 503 that says when."""
    assert [answer.status_code for answer in answers] == [503] * len(answers), [answer.text for answer in answers]
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)


def webhooks(simulator: RunningSimulator, job_id: str) -> list[dict[str, Any]]:
    """Every sending of a webhook about a job of ours, oldest first."""
    return [send for send in simulator.ask("books?part=webhooks")["webhooks"] if job_id in send["url"]]


@contextmanager
def no_revival(home: Path) -> Iterator[None]:
    """Keep everybody from starting the embedded PostgreSQL for so long, by the lock that one must hold for it."""
    with (home / "start.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
