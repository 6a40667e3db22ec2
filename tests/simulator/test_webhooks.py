"""Webhooks: their bodies and signatures, whom they reach, and every way in which they go astray."""

from __future__ import annotations

import json

import httpx
import pytest

from app.simulator.server import RunningSimulator
from tests.simulator.walks import KEY, Receiver, counters, ended, eventually, flux, get_job, sign, submit


def final_received(receiver: Receiver, copies: int = 1) -> bool:
    return sum(event in ("completed", "failed") for event in receiver.events()) >= copies


def test_a_job_tells_its_progress_and_its_end_in_order(vendor: httpx.Client, receiver: Receiver) -> None:
    job_id = submit(vendor, webhookUrl=receiver.url)
    eventually(lambda: final_received(receiver))
    assert receiver.events() == ["progress", "progress", "progress", "completed"]
    progress, completed = receiver.received[1].body, receiver.received[3].body
    model = "flux-1.1-pro-ultra"
    assert progress == {"event": "progress", "jobId": job_id, "status": "PROCESSING", "progress": 50, "model": model}
    job = get_job(vendor, job_id)
    shared = {name: job[name] for name in ("status", "progress", "result", "model", "creditCost", "completedAt")}
    assert completed == {"event": "completed", "jobId": job_id, **shared}
    assert eventually(lambda: get_job(vendor, job_id)["webhookStatus"] == "delivered")


def test_a_failed_job_tells_its_error(simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver) -> None:
    simulator.tell("faults", fail=1)
    job_id = submit(vendor, webhookUrl=receiver.url, webhookEvents=["failed"])
    eventually(lambda: final_received(receiver))
    error = get_job(vendor, job_id)["error"]
    model = "flux-1.1-pro-ultra"
    assert receiver.received[0].body == {
        "event": "failed",
        "jobId": job_id,
        "status": "FAILED",
        "error": error,
        "model": model,
    }
    assert error


def test_only_the_events_that_were_asked_for_are_sent(vendor: httpx.Client, receiver: Receiver) -> None:
    submit(vendor, webhookUrl=receiver.url, webhookEvents=["completed"])
    eventually(lambda: final_received(receiver))
    assert receiver.events() == ["completed"]


@pytest.mark.parametrize(("secret", "prefix"), [("digest", True), ("hex", True), ("digest", False)])
def test_webhooks_are_signed_over_their_raw_bytes_with_the_submitting_key(
    simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver, secret: str, prefix: bool
) -> None:
    simulator.tell("config", signature_secret=secret, signature_prefix=prefix)
    for key in (KEY, "afk_second_key"):
        vendor.headers["X-API-Key"] = key
        receiver.received.clear()
        submit(vendor, prompt="füchse", webhookUrl=receiver.url)
        eventually(lambda: final_received(receiver))
        for webhook in receiver.received:
            expected = sign(webhook.raw, key, as_hex=secret == "hex")
            assert webhook.signature == (f"sha256={expected}" if prefix else expected)
            assert webhook.headers["x-webhook-event"] == webhook.body["event"]
            assert webhook.headers["content-type"] == "application/json"


def test_a_webhook_is_tried_again_until_it_is_acknowledged(
    simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver
) -> None:
    receiver.answers = [503, 500, 404, 204]
    job_id = submit(vendor, webhookUrl=receiver.url, webhookEvents=["completed"])
    assert eventually(lambda: get_job(vendor, job_id)["webhookStatus"] == "delivered")
    sends = simulator.ask("books")["webhooks"]
    assert [(send["attempt"], send["answer_status"]) for send in sends] == [(1, 503), (2, 500), (3, 404), (4, 204)]
    assert [send["body"].encode() for send in sends] == [webhook.raw for webhook in receiver.received]
    assert sends[0]["headers"]["X-Webhook-Signature"] == receiver.received[0].signature


def test_a_webhook_is_given_up_after_three_retries(
    simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver
) -> None:
    receiver.answers = [500] * 9
    job_id = submit(vendor, webhookUrl=receiver.url, webhookEvents=["completed"])
    assert eventually(lambda: get_job(vendor, job_id)["webhookStatus"] == "failed")
    simulator.tell("faults", no_retries=1)
    other = submit(vendor, webhookUrl=receiver.url, webhookEvents=["completed"])
    assert eventually(lambda: get_job(vendor, other)["webhookStatus"] == "failed")
    assert len(receiver.received) == 5


def test_a_receiver_that_is_not_there_is_written_down(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    job_id = submit(vendor, webhookUrl="http://127.0.0.1:9/hook", webhookEvents=["completed"])
    assert eventually(lambda: get_job(vendor, job_id)["webhookStatus"] == "failed")
    send = simulator.ask("books")["webhooks"][0]
    assert send["answer_status"] is None
    assert "ConnectError" in send["error"]


@pytest.mark.parametrize("fault", ["drop", "no_webhooks"])
def test_a_lost_webhook_is_never_sent(
    simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver, fault: str
) -> None:
    simulator.tell("faults", next=[fault])
    lost = submit(vendor, webhookUrl=receiver.url)
    assert ended(vendor, lost)["webhookStatus"] == "failed"
    told = submit(vendor, webhookUrl=receiver.url)
    eventually(lambda: final_received(receiver))
    assert {webhook.body["jobId"] for webhook in receiver.received} == {told}
    assert counters(simulator)["webhooks_dropped"] == 4


def test_a_doubled_webhook_comes_twice_with_the_same_bytes(
    simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver
) -> None:
    simulator.tell("faults", double=1)
    submit(vendor, webhookUrl=receiver.url, webhookEvents=["completed"])
    eventually(lambda: final_received(receiver, 2))
    first, second = receiver.received
    assert (first.raw, first.signature) == (second.raw, second.signature)


def test_reordered_webhooks_come_last_first(
    simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver
) -> None:
    simulator.tell("faults", reorder=1)
    submit(vendor, webhookUrl=receiver.url)
    eventually(lambda: len(receiver.received) == 4)
    assert [webhook.body["progress"] for webhook in receiver.received] == [100, 75, 50, 25]


def test_a_late_webhook_is_overtaken(simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver) -> None:
    simulator.tell("config", hold=True)
    job_id = submit(vendor, webhookUrl=receiver.url)
    simulator.tell("faults", late=1, late_seconds=3600)
    simulator.tell(f"jobs/{job_id}/progress")
    simulator.tell("faults", late=0)
    simulator.tell(f"jobs/{job_id}/finish")
    eventually(lambda: receiver.events() == ["completed"])
    simulator.tell("faults", late=1, late_seconds=0.05)
    other = submit(vendor, webhookUrl=receiver.url)
    simulator.tell(f"jobs/{other}/progress")
    eventually(lambda: receiver.events() == ["completed", "progress"])
    assert [webhook.body["jobId"] for webhook in receiver.received] == [job_id, other]


def test_an_early_webhook_is_answered_before_the_submission_is(
    simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver
) -> None:
    simulator.tell("faults", early=1)
    answer = vendor.post("/v2/images/generate", json=flux(webhookUrl=receiver.url))
    assert answer.json()["status"] == "QUEUED"
    assert receiver.events() == ["progress", "completed"]
    assert get_job(vendor, answer.json()["jobId"])["webhookStatus"] == "delivered"


def test_only_the_progress_may_be_early(simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver) -> None:
    simulator.tell("config", hold=True)
    simulator.tell("faults", next=["early"], early_events=["progress"])
    submit(vendor, webhookUrl=receiver.url)
    assert receiver.events() == ["progress"]
    simulator.tell("config", hold=False)
    simulator.tell("faults", next=["early"])
    submit(vendor, webhookUrl=receiver.url)
    eventually(lambda: final_received(receiver))
    assert [webhook.body["progress"] for webhook in receiver.received] == [25, 25, 50, 75, 100]


@pytest.mark.parametrize("fault", ["unsigned", "wrong_signature"])
def test_signatures_can_be_absent_or_wrong(
    simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver, fault: str
) -> None:
    simulator.tell("faults", **{fault: True})
    submit(vendor, webhookUrl=receiver.url, webhookEvents=["completed"])
    eventually(lambda: final_received(receiver))
    webhook = receiver.received[0]
    assert (webhook.signature is None) == (fault == "unsigned")
    assert webhook.signature != f"sha256={sign(webhook.raw)}"


def test_a_cancelled_job_says_nothing(simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver) -> None:
    simulator.tell("faults", cancel=1)
    job = ended(vendor, submit(vendor, webhookUrl=receiver.url, webhookEvents=["completed", "failed"]))
    assert (job["status"], job["result"], job["creditCost"]) == ("CANCELLED", None, None)
    assert counters(simulator)["webhooks_sent"] == 0
    assert vendor.get("/v2/me").json()["team"]["credits"] == 1_000_000


def test_a_chosen_webhook_is_sent_on_demand(
    simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver
) -> None:
    simulator.tell("config", hold=True)
    simulator.tell("faults", drop=1)
    headers = {"Idempotency-Key": "my-job"}
    answer = vendor.post("/v2/videos/generate", json={"model": "veo-3", "prompt": "x"}, headers=headers)
    refused = vendor.post("/sim/jobs/my-job/webhook", json={})
    assert refused.status_code == 409
    sends = simulator.tell(
        "jobs/my-job/webhook", event="failed", copies=3, url=f"{receiver.url}/2", fields={"error": "e"}
    )
    assert [send["answer_status"] for send in sends["sends"]] == [200, 200, 200]
    assert {webhook.path for webhook in receiver.received} == {"/hook/2"}
    expected = {"event": "failed", "jobId": answer.json()["jobId"], "status": "FAILED", "error": "e", "model": "veo-3"}
    assert all(webhook.body == expected for webhook in receiver.received)
    simulator.tell("jobs/my-job/webhook", raw="not json", signature="wrong", url=receiver.url)
    assert receiver.received[3].raw == b"not json"
    assert receiver.received[3].signature not in (None, f"sha256={sign(b'not json')}")


def test_finishing_can_wait_for_the_webhook(
    simulator: RunningSimulator, vendor: httpx.Client, receiver: Receiver
) -> None:
    simulator.tell("config", hold=True)
    job_id = submit(vendor, webhookUrl=receiver.url)
    result = {"images": [{"url": "https://example.com/1.png"}]}
    booked = simulator.tell(f"jobs/{job_id}/finish", result=result, credit_cost=7, wait=True)
    assert (booked["webhook_status"], booked["credit_cost"]) == ("delivered", 7)
    assert json.loads(receiver.received[0].raw)["result"] == get_job(vendor, job_id)["result"] == result
    assert vendor.get("/v2/me").json()["team"]["credits"] == 1_000_000 - 7
    assert vendor.post(f"/sim/jobs/{job_id}/finish").status_code == 409
