"""A stop, by a supervisor or by Ctrl-C, finishes what is in flight, answers 0 and leaves no process behind."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.simulator.server import RunningSimulator
from tests.processes.harness import (
    FLUX,
    SUBMIT,
    Program,
    client,
    counters,
    eventually,
    postgres_is_gone,
    query,
    reachable,
    read,
    ready,
    submit,
    upstream_jobs,
)


def terminate(program: Program) -> None:
    program.signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("processes", "embedded", "stop"),
    [
        pytest.param(1, False, terminate, id="SIGTERM"),
        pytest.param(2, True, terminate, id="SIGTERM, two workers, embedded"),
        pytest.param(2, False, Program.ctrl_c, id="Ctrl-C, two workers"),
    ],
)
def test_a_stop_finishes_what_is_in_flight(
    launch: Callable[..., Program],
    simulate: Callable[..., RunningSimulator],
    folder: Path,
    database_url: str,
    processes: int,
    embedded: bool,
    stop: Callable[[Program], None],
) -> None:
    simulator = simulate(hold=True)
    settings = reachable(simulator, None if embedded else database_url, inline_seconds=60)
    service = launch("serve", "--workers", str(processes), **settings)
    with ThreadPoolExecutor() as threads, client(ready(service), timeout=90) as caller:
        held = submit(caller, Prefer="respond-async")
        eventually(lambda: counters(simulator)["accepted"] == 1)
        reader = caller.post("/v1/keys", json={"team": "admin", "scopes": ["read"]}).json()
        poll = threads.submit(wait_for, service, reader["key"], held)
        eventually(lambda: caller.get(f"/v1/keys/{reader['id']}").json()["lastUsedAt"])
        simulator.tell("faults", next=["accept_then_hang"])
        sent = threads.submit(caller.post, SUBMIT, json=FLUX)
        eventually(lambda: counters(simulator)["hanging_now"] == 1)
        assert len(service.survivors()) >= (processes if processes > 1 else 0) + 1

        stop(service)

        assert poll.result(30)["status"] == "QUEUED"
        assert not sent.done()
        simulator.tell("release", answer=True)
        assert sent.result(30).status_code == 202
    assert service.wait() == 0
    assert service.leaves_nothing()
    assert [line for line in service.log if line["level"] in ("error", "critical")] == []
    assert "Traceback" not in service.said
    if embedded:
        assert postgres_is_gone(folder / ".framehook")
    else:
        recorded = query(database_url, "SELECT upstream_id FROM jobs ORDER BY id")
        assert sorted(recorded) == sorted(job["job_id"] for job in upstream_jobs(simulator))


def wait_for(service: Program, key: str, job_id: str) -> dict[str, Any]:
    """What a long poll is told."""
    with client(service.url, key) as caller:
        return read(caller, job_id, wait=60)


def test_a_terminal_that_is_closed_half_way_leaves_no_database_behind(
    launch: Callable[..., Program], folder: Path
) -> None:
    migration = launch("migrate")
    eventually(lambda: (folder / ".framehook" / "cluster" / "postmaster.pid").exists() or not migration.running)

    if migration.running:
        migration.signal(signal.SIGHUP)

    # The migration may have been faster than the signal; whatever came of it, its server is gone.
    assert migration.wait() in (0, 130)
    assert "Traceback" not in migration.said
    assert migration.leaves_nothing()
    assert postgres_is_gone(folder / ".framehook")


def test_an_impatient_second_ctrl_c_leaves_no_process_either(
    launch: Callable[..., Program], simulate: Callable[..., RunningSimulator], folder: Path
) -> None:
    simulator = simulate()
    service = launch("serve", **reachable(simulator, inline_seconds=30))
    with ThreadPoolExecutor() as threads, client(ready(service)) as caller:
        simulator.tell("faults", accept_then_hang=1)
        sent = threads.submit(caller.post, SUBMIT, json=FLUX)
        eventually(lambda: counters(simulator)["hanging_now"] == 1)
        service.ctrl_c()
        eventually(lambda: "Shutting down" in service.said)
        service.ctrl_c()
        simulator.tell("release")
        service.wait()
        sent.exception(30)  # whatever the caller was told, it was told something
    assert service.leaves_nothing()
    assert postgres_is_gone(folder / ".framehook")
