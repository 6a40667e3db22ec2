"""Which webhooks count as acknowledged: those with a good signature that were answered 2xx, and no book may have gaps."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

import pytest

from app.errors import StartupError
from app.faults.compare import UpstreamJob, Webhook
from app.faults.ledgers import acknowledged_webhooks, upstream_jobs
from app.simulator.config import SimulatorConfig
from app.simulator.webhooks import signature

CONFIG = SimulatorConfig()
KEY = CONFIG.api_keys[0]
JOB = UUID(int=5)
BODY = '{"event":"completed","jobId":"one","note":"é"}'


def send(status: int | None = 200, *, signed_with: str | None = KEY, body: str = BODY) -> dict[str, Any]:
    headers = {"X-Webhook-Event": "completed"}
    if signed_with is not None:
        headers["X-Webhook-Signature"] = signature(signed_with, body.encode(), CONFIG)
    url = f"http://127.0.0.1:1/webhooks/apiframe/{JOB}/token"
    return {"job_id": "one", "url": url, "headers": headers, "body": body, "answer_status": status}


def books(*sends: dict[str, Any], sent: int | None = None) -> dict[str, Any]:
    job = {"job_id": "one", "api_key": KEY, "body": '{"prompt": "a tram"}', "status": "COMPLETED", "credit_cost": 10}
    return {
        "jobs": [job],
        "webhooks": list(sends),
        "counters": {"webhooks_sent": len(sends) if sent is None else sent},
    }


def test_a_signed_webhook_that_was_answered_2xx_counts_with_the_digest_of_its_bytes() -> None:
    digest = hashlib.sha256(BODY.encode()).digest()
    assert acknowledged_webhooks(books(send(), send(204)), CONFIG) == [Webhook(job_id=JOB, digest=digest)] * 2


@pytest.mark.parametrize(
    "one",
    [send(None), send(503), send(401), send(302), send(signed_with=None), send(signed_with="another key")],
    ids=["no answer", "503", "401", "302", "unsigned", "wrongly signed"],
)
def test_any_other_promises_nothing(one: dict[str, Any]) -> None:
    assert acknowledged_webhooks(books(one), CONFIG) == []


def test_books_that_forgot_a_webhook_are_not_compared() -> None:
    with pytest.raises(StartupError, match="kept 1 of 2 webhooks"):
        acknowledged_webhooks(books(send(), sent=2), CONFIG)


def test_an_upstream_job_goes_by_the_prompt_that_arrived_there() -> None:
    assert upstream_jobs(books()) == [UpstreamJob(id="one", prompt="a tram", status="COMPLETED", credit_cost=10)]
