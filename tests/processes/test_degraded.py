"""Without the upstream, or without a way back from it, the service serves and says what it lacks."""

from __future__ import annotations

import json
from collections.abc import Callable

from app.simulator.server import RunningSimulator
from tests.processes.harness import (
    FLUX,
    SUBMIT,
    Program,
    client,
    counters,
    eventually,
    in_front_of,
    reachable,
    read,
    ready,
    submit,
    upstream_jobs,
)


def test_an_upstream_that_is_down_stops_neither_webhooks_nor_reads(
    launch: Callable[..., Program], simulate: Callable[..., RunningSimulator], database_url: str
) -> None:
    simulator = simulate(hold=True)
    service = launch("serve", **reachable(simulator, database_url))
    with client(ready(service)) as caller:
        sent_before = submit(caller, "before")
        simulator.tell("faults", down=1, down_by="cut")

        sent_meanwhile = caller.post(SUBMIT, json=FLUX | {"prompt": "meanwhile"})
        assert (sent_meanwhile.status_code, sent_meanwhile.json()["status"]) == (202, "QUEUED")
        assert caller.get("/readyz").status_code == 200
        simulator.tell(f"jobs/{sent_before}/finish")
        assert read(caller, sent_before, wait=15)["status"] == "COMPLETED"

        simulator.tell("faults", down=0)
        eventually(lambda: counters(simulator)["accepted"] == 2)
        simulator.tell(f"jobs/{sent_meanwhile.json()['jobId']}/finish")
        assert read(caller, sent_meanwhile.json()["jobId"], wait=15)["status"] == "COMPLETED"


def test_without_a_public_address_no_webhook_is_asked_for_and_jobs_complete_by_polling(
    launch: Callable[..., Program], simulator: RunningSimulator, database_url: str
) -> None:
    service = launch("serve", **in_front_of(simulator, database_url))
    with client(ready(service)) as caller:
        assert "poll-only" in caller.get("/readyz").text
        assert service.logged("upstream.poll_only")["level"] == "warning"
        assert read(caller, submit(caller), wait=30)["status"] == "COMPLETED"
    assert [json.loads(job["body"]) for job in upstream_jobs(simulator)] == [FLUX]
    assert counters(simulator)["webhooks_sent"] == 0
    assert counters(simulator)["polls"] >= 1
