"""`framehook bench`: a short run measures, looks up what was acknowledged, prints one document, and leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.processes.harness import Program


@pytest.mark.timeout(180)
def test_a_short_run_prints_its_figures_and_what_they_were_made_of(launch: Callable[..., Program]) -> None:
    elsewhere = {"DATABASE_URL": "postgresql://someone@127.0.0.1:1/framehook", "loops": False}
    run = launch("bench", "--quick", "--only", "webhook", "--seconds", "1", "--rounds", "1", "--json", **elsewhere)
    assert run.wait(150) == 0, run.said + run.printed
    document = json.loads(run.printed)
    (measured,) = document["raw"]["webhook"]["one"]["rounds"]
    assert (document["ok"], document["wrong"]) == (True, [])
    assert document["acknowledged"] >= measured["acknowledged"] > 0 == measured["not_acknowledged"]
    assert len(measured["limits"]["postgres"]) == len(measured["limits"]["batched"]) == 2
    assert document["webhook_vs_postgres"] == measured["ratios"]["postgres"] > 0
    assert document["webhook_vs_batched"] == measured["ratios"]["batched"] > 0
    assert document["machine"]["settings"]["fsync"] == document["machine"]["settings"]["synchronous_commit"] == "on"
    assert "pgbench" in document["limit_driver"]
    assert "webhook, round 1 of 1, one" in run.said


def test_a_measure_that_there_is_not_is_refused_in_one_line(launch: Callable[..., Program]) -> None:
    run = launch("bench", "--only", "speed")
    assert run.wait(60) == 1
    assert run.said.startswith("framehook: --only: unknown speed; there are idle, ")


@pytest.mark.timeout(180)
def test_a_short_soak_tells_what_grew_and_looks_everything_up(launch: Callable[..., Program]) -> None:
    run = launch("bench", "--only", "soak", "--seconds", "1", "--rounds", "2", "--json")
    assert run.wait(150) == 0, run.said + run.printed
    document = json.loads(run.printed)
    soak = document["raw"]["soak"]
    assert (document["ok"], document["wrong"], len(soak["rounds"])) == (True, [], 2)
    assert (
        document["acknowledged"] >= soak["peak_per_second"] > 2 * min(each["deliveries"] for each in soak["rounds"]) > 0
    )
    assert document["soak_memory_growth"] > 0.5
    first, last = soak["tables"]
    assert last["jobs"]["bytes"] >= first["jobs"]["bytes"] > 0
