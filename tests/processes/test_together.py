"""Any number of processes do the work of one database together."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil
import pytest

from app.simulator.server import RunningSimulator
from tests.processes.harness import (
    Program,
    client,
    counters,
    eventually,
    make_key,
    prompts,
    query,
    reachable,
    read,
    ready,
    status_of,
    stopped,
    submit,
    upstream_jobs,
)


def test_two_services_share_the_work_and_wake_each_others_callers(
    launch: Callable[..., Program], simulator: RunningSimulator, database_url: str
) -> None:
    settings = reachable(simulator, database_url, archive_url="off")  # keeping a file would wake its readers too
    first, second = launch("serve", **settings), launch("serve", **settings | {"port": 0})
    with client(ready(first)) as here, client(ready(second)) as there, ThreadPoolExecutor(12) as threads:
        wanted = [f"picture {number}" for number in range(60)]
        callers = [here, there] * 30
        jobs = list(threads.map(submit, callers, wanted))
        ends = list(threads.map(lambda caller, job: read(caller, job, wait=30), reversed(callers), jobs))
        assert [end["status"] for end in ends] == ["COMPLETED"] * 60
        assert [end["input"]["prompt"] for end in ends] == wanted
        assert sorted(prompts(simulator)) == sorted(wanted)
        assert counters(simulator)["accepted"] == 60
        assert counters(simulator)["max_in_flight_seen"] <= 10

        # The webhook comes to the first process. Without a nudge the second would look again after five seconds.
        simulator.tell("config", hold=True)
        took = []
        for count in range(1, 4):
            held = submit(here)
            eventually(partial(is_upstream, simulator, held))
            with client(second.url, make_key(database_url, "admin", "read")) as waiting:
                poll = threads.submit(read, waiting, held, wait=30)
                eventually(partial(have_read, database_url, count))
                began = time.monotonic()
                simulator.tell(f"jobs/{held}/finish")
                assert poll.result(30)["status"] == "COMPLETED"
                took.append(time.monotonic() - began)
        assert min(took) < 4


def is_upstream(simulator: RunningSimulator, job_id: str) -> bool:
    """Whether the upstream has a job of ours."""
    return job_id in [job["idempotency_key"] for job in upstream_jobs(simulator)]


def have_read(database_url: str, count: int) -> bool:
    """Whether so many of the keys that may only read have been used."""
    used = "SELECT count(*) FROM api_keys WHERE scopes = '{read}' AND last_used_at IS NOT NULL"
    return query(database_url, used) == [count]


@pytest.mark.timeout(400)
def test_two_hundred_submissions_at_once_to_two_services_run_ten_at_a_time_and_the_cap_is_used(
    launch: Callable[..., Program], simulate: Callable[..., RunningSimulator], database_url: str
) -> None:
    jobs, cap = 200, 10
    simulator = simulate(max_concurrent_jobs=cap, generate_seconds=1.5, progress_steps=())
    # A place that becomes free is told by a webhook. Looks, which come every half minute, would take ten minutes or more.
    settings = [reachable(simulator, database_url, max_in_flight=cap, sweep_seconds=30) for _ in range(2)]
    services = [launch("serve", **each) for each in settings]
    here, there = (client(ready(service), timeout=100) for service in services)
    with here, there, ThreadPoolExecutor(jobs) as threads:
        wanted = [f"picture {number}" for number in range(jobs)]
        accepted = list(threads.map(submit, [here, there] * (jobs // 2), wanted))
        completed = "SELECT count(*) FROM jobs WHERE status = 'COMPLETED'"
        eventually(lambda: query(database_url, completed) == [jobs], seconds=240)

    assert len(set(accepted)) == jobs
    assert sorted(prompts(simulator)) == sorted(wanted)
    seen = counters(simulator)
    assert (seen["max_in_flight_seen"], seen["refused"], seen["accepted"]) == (cap, {}, jobs)
    assert all(any(line["event"] == "job.dispatched" for line in service.log) for service in services)


def test_two_workers_without_loops_both_answer_and_leave_jobs_to_a_worker_process(
    launch: Callable[..., Program], simulator: RunningSimulator, database_url: str
) -> None:
    settings = reachable(simulator, database_url, inline_seconds=60)
    service = launch("serve", "--workers", "2", "--no-loops", **settings)
    url = ready(service)
    eventually(lambda: len([line for line in service.log if line["event"] == "service.started"]) == 2)
    workers = [child for child in psutil.Process(service.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    for worker in workers:
        with stopped(worker):
            assert status_of(f"{url}/healthz") == 200, "the other one does not answer"

    with client(url, timeout=100) as caller:
        waiting = submit(caller, "later", Prefer="respond-async")
        # The end of another job wakes every Dispatcher there is, and there is none.
        assert read(caller, submit(caller, "now"), wait=30)["status"] == "COMPLETED"
        assert read(caller, waiting)["status"] == "QUEUED"
        assert prompts(simulator) == ["now"]

        simulator.tell("faults", next=["accept_then_hang"])
        loops = launch("worker", **settings)
        eventually(lambda: counters(simulator)["hanging_now"] == 1)
        loops.signal(signal.SIGTERM)
        simulator.tell("release", answer=True)
        assert loops.wait() == 0
        assert loops.leaves_nothing()
        assert query(database_url, "SELECT count(*) FROM jobs WHERE upstream_id IS NULL") == [0]
        assert read(caller, waiting, wait=30)["status"] == "COMPLETED"
    assert sorted(prompts(simulator)) == ["later", "now"]

    # Workers whose supervisor was killed leave, or the next start would find the port taken.
    service.signal(signal.SIGKILL)
    assert service.leaves_nothing()
    assert status_of(f"{url}/healthz") is None
