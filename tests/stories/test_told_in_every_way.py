"""One job, told in every way: to a subscription, to its own callback, by a stream, in the feed and in the trace."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from typing import Any

import httpx

from tests.harness import FLUX, Service, eventually
from tests.listening import listening
from tests.receivers import Received, Receiver, receiving

ENDINGS = ("job.completed", "job.failed", "job.cancelled")


def signed(received: Received, secret: str) -> str:
    """The signature by the rules of Standard Webhooks, made apart from the service's own code."""
    content = f"{received.id}.{received.headers['webhook-timestamp']}.".encode() + received.body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.digest(key, content, "sha256")).decode()


def ending(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The one event that says that the job is over."""
    (last,) = [event for event in events if event["type"] in ENDINGS]
    return last


def by_id(receiver: Receiver) -> dict[str, dict[str, Any]]:
    """The events that were received: one may be more than once, where the answer was too slow for the service."""
    return {received.id: received.event for received in receiver.received}


async def told(http: httpx.AsyncClient, path: str) -> dict[str, Any]:
    answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_job_is_told_the_same_to_a_subscription_a_callback_a_stream_and_in_the_feed(service: Service) -> None:
    listener = await service.new_caller("tests", ("subscribe", "read"))
    async with (
        receiving() as subscribed,
        receiving() as called,
        listening(service.url, key=listener.key) as stream,
    ):
        answer = await listener.http.post("/v1/subscriptions", json={"url": subscribed.url, "types": ["job.*"]})
        subscription = answer.json()
        job_id = await service.caller.accepted(
            FLUX | {"webhook_url": called.url, "webhookEvents": ["completed", "failed"], "metadata": {"order": 7}}
        )
        await stream.until(lambda one: "job.completed" in one.types)
        await called.wait(1)
        await eventually(lambda: asyncio.sleep(0, by_id(subscribed)), lambda seen: len(seen) == len(stream.messages))
        job = await eventually(lambda: service.caller.read(job_id), lambda seen: seen["webhookStatus"] == "delivered")

    streamed = [message.event for message in stream.messages]
    fed = (await told(listener.http, f"/v1/jobs/{job_id}/events?after=0"))["events"]
    delivered = sorted(by_id(subscribed).values(), key=lambda event: int(event["sequence"]))
    assert streamed == fed == delivered
    assert by_id(subscribed) == {event["id"]: event for event in fed}
    assert all(one.headers["webhook-signature"] == signed(one, subscription["secret"]) for one in subscribed.received)

    data = ending(fed)["data"]
    assert data | {"webhookStatus": "delivered"} == job
    assert (data["status"], data["metadata"]) == ("COMPLETED", {"order": 7})
    callback, *again = called.received
    assert {one.body for one in again} <= {callback.body}
    assert callback.event == {
        "event": "completed",
        "jobId": data["id"],
        **{name: data[name] for name in ("status", "progress", "result", "model", "creditCost", "completedAt")},
    }
    secret = hashlib.sha256(service.caller.key.encode()).digest()
    signature = "sha256=" + hmac.digest(secret, callback.body, "sha256").hex()
    assert callback.headers["x-webhook-signature"] == signature

    async def arrived() -> set[tuple[str, str]]:
        steps = (await told(service.caller.http, f"/v1/jobs/{job_id}/trace"))["steps"]
        return {(one["by"], one["event"]) for one in steps if one["what"] == "attempt" and one["httpStatus"] == 200}

    wanted = {(subscription["id"], event["type"]) for event in fed} | {("callback", "job.completed")}
    await eventually(arrived, lambda seen: seen == wanted)
