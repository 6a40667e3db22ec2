"""Faults of submissions and reads, by plan and by script, and that the dice depend on the seed alone."""

from __future__ import annotations

import ssl
import threading
import time

import httpx
import pytest

from app.simulator.faults import FaultPlan, roll, strikes
from app.simulator.server import RunningSimulator
from tests.simulator.walks import KEY, SUBMIT, at_once, counters, ended, eventually, flux, get_job, submit


def outcomes(simulator: RunningSimulator, vendor: httpx.Client, seed: int) -> list[int]:
    simulator.tell("reset")
    simulator.tell("config", seed=seed)
    simulator.tell("faults", rate_limited=0.3, server_error=0.3, no_credits=0.3)
    return [vendor.post(SUBMIT, json=flux()).status_code for _ in range(40)]


def test_the_same_seed_gives_the_same_faults(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    first = outcomes(simulator, vendor, seed=1)
    assert {202, 402, 429, 503} <= set(first)
    assert outcomes(simulator, vendor, seed=1) == first
    assert outcomes(simulator, vendor, seed=2) != first


def test_certain_faults_always_strike_and_impossible_ones_never() -> None:
    assert all(strikes(FaultPlan(drop=1), 0, "drop", number) for number in range(100))
    assert not any(strikes(FaultPlan(), 0, "drop", number) for number in range(100))
    hits = sum(strikes(FaultPlan(drop=0.25), 0, "drop", number) for number in range(4000))
    assert 900 < hits < 1100
    assert 0 <= roll(5, "a", 1) < 1


def test_refusals_accept_nothing(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell(
        "faults",
        next=["rate_limited", "server_error", "no_credits", "cap_reached", "unauthorized", "forbidden", "down", "none"],
        retry_after_seconds=7,
        server_error_statuses=[502],
    )
    answers = [vendor.post(SUBMIT, json=flux()) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [429, 502, 402, 429, 401, 403, 503, 202]
    assert answers[0].headers["retry-after"] == "7"
    assert answers[2].json() == {"error": "Insufficient credits", "creditsRequired": 10, "creditsAvailable": 0}
    assert counters(simulator)["accepted"] == 1
    assert counters(simulator)["refused"] == {"429": 2, "502": 1, "402": 1, "401": 1, "403": 1, "503": 1}


def test_a_job_is_accepted_though_the_answer_hangs(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("faults", next=["accept_then_hang"])
    with pytest.raises(httpx.ReadTimeout):
        vendor.post(SUBMIT, json=flux(), headers={"Idempotency-Key": "k"}, timeout=httpx.Timeout(60, read=0.3))
    eventually(lambda: counters(simulator)["hanging_now"] == 1)
    replay = vendor.post(SUBMIT, json=flux(), headers={"Idempotency-Key": "k"})
    assert replay.status_code == 202
    assert [entry["job_id"] for entry in simulator.ask("books")["jobs"]] == [replay.json()["jobId"]]


def test_a_hanging_answer_comes_when_its_time_is_over(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("faults", next=["accept_then_hang"], hang_seconds=0.2)
    began = time.monotonic()
    submit(vendor)
    assert time.monotonic() - began >= 0.2


def test_hanging_answers_are_cut_on_release(
    simulator: RunningSimulator, vendor: httpx.Client, trust: ssl.SSLContext
) -> None:
    simulator.tell("faults", accept_then_hang=1)
    cut: list[bool] = []

    def send(client: httpx.Client) -> None:
        try:
            client.post(SUBMIT, json=flux())
        except httpx.TransportError:
            cut.append(True)

    threads = at_once(3, vendor, trust, send)
    eventually(lambda: counters(simulator)["hanging_now"] == 3)
    simulator.tell("release")
    for thread in threads:
        thread.join(60)
    assert cut == [True] * 3
    assert counters(simulator)["accepted"] == 3


def test_a_job_is_accepted_though_the_connection_is_cut(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("faults", accept_then_cut=1)
    with pytest.raises(httpx.TransportError):
        vendor.post(SUBMIT, json=flux(), headers={"Idempotency-Key": "k"})
    assert counters(simulator)["accepted"] == 1
    assert ended(vendor, simulator.ask("jobs/k")["job_id"])["status"] == "COMPLETED"


def test_a_job_is_accepted_though_the_answer_is_an_error(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("faults", next=["accept_then_error"])
    answers = [vendor.post(SUBMIT, json=flux(), headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert answers[0].status_code >= 500
    assert answers[1].status_code == 202
    assert counters(simulator)["accepted"] == 1


@pytest.mark.parametrize(("fault", "status"), [("down", 503), ("unauthorized", 401), ("forbidden", 403)])
def test_the_whole_api_can_refuse(simulator: RunningSimulator, vendor: httpx.Client, fault: str, status: int) -> None:
    simulator.tell("faults", **{fault: 1})
    for answer in (vendor.get("/v2/me"), vendor.get("/v2/jobs"), vendor.post(SUBMIT, json=flux())):
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
    simulator.tell("faults", replace=True)
    assert vendor.get("/v2/me").status_code == 200


def test_the_whole_api_can_cut_every_connection(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("faults", down=1, down_by="cut")
    with pytest.raises(httpx.TransportError):
        vendor.get("/v2/me")
    assert counters(simulator)["faults"]["down"] == 1


def test_reading_can_be_limited_fail_or_be_stale(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("config", hold=True)
    job_id = submit(vendor)
    simulator.tell("faults", read_rate_limited=1)
    assert vendor.get("/v2/jobs").status_code == 429
    simulator.tell("faults", replace=True, read_server_error=1)
    assert vendor.get(f"/v2/jobs/{job_id}").status_code >= 500
    simulator.tell("faults", replace=True, stale_read_seconds=60)
    stale: list[str] = []
    thread = threading.Thread(target=lambda: stale.append(get_job(vendor, job_id)["status"]))
    thread.start()
    eventually(lambda: counters(simulator)["hanging_now"] == 1)
    simulator.tell(f"jobs/{job_id}/finish")
    simulator.tell("release")
    thread.join()
    assert stale == ["QUEUED"]


def test_faults_are_merged_and_scripts_may_join_several(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("faults", fail=1)
    plan = simulator.tell("faults", drop=0.5, next=["cancel+accept_then_error", "none"])
    assert (plan["fail"], plan["drop"], plan["next"]) == (1.0, 0.5, ["accept_then_error+cancel", "none"])
    assert vendor.post(SUBMIT, json=flux(), headers={"Idempotency-Key": "a"}).status_code >= 500
    assert ended(vendor, simulator.ask("jobs/a")["job_id"])["status"] == "CANCELLED"
    assert ended(vendor, submit(vendor))["status"] == "COMPLETED"
    assert ended(vendor, submit(vendor))["status"] == "FAILED"
    assert simulator.tell("faults", replace=True, next=[])["fail"] == 0.0


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("faults", {"dorp": 1}, "dorp"),
        ("faults", {"drop": 1.5}, "drop"),
        ("faults", {"next": ["explode"]}, "explode"),
        ("config", {"webhook_field": "callback"}, "webhook_field"),
        ("config", {"credits": "many"}, "credits"),
        ("config", {"faults": {"dorp": 1}}, "dorp"),
        ("advance", {"seconds": -1}, "seconds"),
        ("advance", {}, "seconds"),
        ("books?part=pages", None, "part"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    vendor: httpx.Client, path: str, body: dict[str, object] | None, named: str
) -> None:
    answer = vendor.get(f"/sim/{path}") if body is None else vendor.post(f"/sim/{path}", json=body)
    assert answer.status_code == 400
    assert named in answer.json()["error"]


def test_a_reset_forgets_jobs_and_brings_the_config_back(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("config", hold=True, credits=5, cost=1)
    simulator.tell("faults", fail=1)
    submit(vendor)
    simulator.tell("advance", seconds=99)
    simulator.tell("reset")
    assert vendor.get("/v2/jobs").json()["jobs"] == []
    assert simulator.ask("books")["jobs"] == []
    assert (simulator.ask("config")["hold"], simulator.ask("faults")["fail"]) == (False, 0.0)
    assert counters(simulator)["in_flight_now"] == 0
    assert simulator.ask("config")["api_keys"][0] == KEY
