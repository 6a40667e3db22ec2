"""The trace of a job: everything that happened to it, in order, and who said so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.clock import timestamp
from app.deliveries import deliver
from app.jobs import dispatch
from app.ops import queries, trace
from app.simulator.server import RunningSimulator
from tests.deliveries.rows import attempts, deliveries
from tests.harness import FLUX, Caller, Service, eventually, held_job, post_webhook, refused, tell
from tests.processes.harness import free_port
from tests.receivers import receiving
from tests.simulator.walks import sign

LATER: Final = {"Prefer": "respond-async"}
TIME: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]) -> Service:
    """A service that sends nothing by itself, to an upstream whose jobs do not end."""
    started: Service = await serve(simulate(hold=True), loops=False)
    return started


async def traced(caller: Caller, job_id: str) -> dict[str, Any]:
    answer = await caller.http.get(f"/v1/jobs/{job_id}/trace")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def note(service: Service, job_id: str, after: float, kind: str, source: str, **data: Any) -> None:
    """Write a step down as of so many seconds after the job's submission."""
    row = await service.job(job_id)
    statement = (
        "INSERT INTO steps (id, job_id, at, kind, source, data) VALUES (:id, :job_id, :at, :kind, :source, :data)"
    )
    values = {"at": row.created_at + timedelta(seconds=after), "kind": kind, "source": source}
    async with service.ctx.db.transaction() as tx:
        await tx.execute(text(statement), values | {"id": uuid7(), "job_id": row.id, "data": json.dumps(data)})


async def change(service: Service, job_id: str, assignments: str) -> None:
    async with service.ctx.db.transaction() as tx:
        await tx.execute(text(f"UPDATE jobs SET {assignments} WHERE id = :id"), {"id": job_id})


async def test_the_steps_are_told_in_their_order_with_what_each_came_to(quiet: Service) -> None:
    job_id = await quiet.caller.accepted(FLUX | {"priority": 3}, **LATER)
    said = {"from": "QUEUED", "progress": None, "upstreamId": "up-1", "errorCode": None, "concludedBy": None}
    await note(quiet, job_id, 9.5, "transition", "framehook", **said | {"from": "PROCESSING", "to": "FAILED"})
    await note(quiet, job_id, 0.25, "dispatch", "submit", attempt=1, verdict="wait", seconds=0.2, said="no answer")
    await note(quiet, job_id, 1.5, "dispatch", "submit", attempt=2, verdict="accepted", httpStatus=202)
    await note(quiet, job_id, 1.75, "transition", "submit", **said | {"to": "PROCESSING"})
    await note(quiet, job_id, 5, "poll", "poll", said="404", missingCount=1)
    await note(quiet, job_id, 7, "action", str(quiet.caller.key_id), action="refresh")
    await note(quiet, job_id, 8, "action", "cli", action="cancel")

    submitted, *steps = (await traced(quiet.caller, job_id))["steps"]

    row = await quiet.job(job_id)
    assert submitted == {
        "at": (await quiet.caller.read(job_id))["createdAt"],
        "afterSeconds": 0.0,
        "what": "submitted",
        "by": str(quiet.caller.key_id),
        "byName": None,
        "operation": "images/generate",
        "model": FLUX["model"],
        "priority": 3,
    }
    assert [(step["afterSeconds"], step["what"], step["by"]) for step in steps] == [
        (0.25, "dispatch", "submit"),
        (1.5, "dispatch", "submit"),
        (1.75, "transition", "submit"),
        (5, "poll", "poll"),
        (7, "action", str(quiet.caller.key_id)),
        (8, "action", "cli"),
        (9.5, "transition", "framehook"),
    ]
    assert all(re.fullmatch(TIME, step["at"]) for step in steps)
    assert (
        abs(datetime.fromisoformat(steps[0]["at"]) - row.created_at - timedelta(seconds=0.25)).total_seconds() < 0.001
    )
    first, second, accepted, poll, refresh, *_ = steps
    assert (first["attempt"], first["verdict"], first["said"], first["seconds"]) == (1, "wait", "no answer", 0.2)
    assert (second["attempt"], second["httpStatus"]) == (2, 202)
    assert (accepted["from"], accepted["to"], accepted["upstreamId"]) == ("QUEUED", "PROCESSING", "up-1")
    assert (poll["said"], poll["missingCount"]) == ("404", 1)
    assert refresh["action"] == "refresh"


async def test_causes_come_before_their_effects_where_the_time_is_the_same(quiet: Service) -> None:
    job_id = await quiet.caller.accepted(FLUX, **LATER)
    for kind in ("transition", "poll", "dispatch", "action"):
        await note(quiet, job_id, 1, kind, "submit")
    await note(quiet, job_id, 0, "dispatch", "submit")

    steps = (await traced(quiet.caller, job_id))["steps"]

    assert [step["what"] for step in steps] == ["submitted", "dispatch", "action", "dispatch", "poll", "transition"]


async def test_webhooks_are_told_with_the_verdict_on_their_signature(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)  # so that no poll is faster than the webhook
    job = await held_job(service, simulator)
    await post_webhook(service, job.url, job.says("failed"), "sha256=" + "0" * 64)
    await tell(simulator, f"jobs/{job.id}/finish", wait=True)
    await eventually(lambda: service.caller.read(job.id), lambda seen: seen["status"] == "COMPLETED")

    webhooks = [step for step in (await traced(service.caller, job.id))["steps"] if step["what"] == "webhook"]

    told = {(step["signature"], step["event"], step["outcome"], step["applied"], step["by"]) for step in webhooks}
    assert ("wrong", "failed", "hint", False, "webhook") in told
    assert ("valid", "completed", "applied", True, "webhook") in told
    kept = {str(row.id) for row in await service.rows("SELECT id FROM receipts WHERE job_id = :id", id=job.id)}
    assert {step["receiptId"] for step in webhooks} == kept
    assert all(step["afterSeconds"] >= 0 for step in webhooks)


async def test_every_attempt_to_tell_a_subscriber_or_a_callback_is_told(quiet: Service) -> None:
    subscriber = await quiet.new_caller("tests", scopes=("subscribe",))
    async with receiving() as receiver, receiving() as called:
        receiver.status = 503
        wanted = {"url": receiver.url, "types": ["job.queued", "job.cancelled"]}
        subscription = (await subscriber.http.post("/v1/subscriptions", json=wanted)).json()["id"]
        job_id = await quiet.caller.accepted(FLUX | {"webhook_url": called.url, "webhookEvents": ["failed"]}, **LATER)
        await quiet.caller.accepted(FLUX, **LATER)  # another job, whose deliveries are not told here
        await deliver.run_once(quiet.ctx)
        async with quiet.ctx.db.transaction() as tx:  # none of them is due again before the next round
            await tx.execute(text("UPDATE deliveries SET due_at = now() + interval '1 hour' WHERE status = 'pending'"))
        await quiet.caller.http.post(f"/v1/jobs/{job_id}/cancel")
        await deliver.run_once(quiet.ctx)

    steps = (await traced(quiet.caller, job_id))["steps"]

    of_job = {row.id: row for row in await deliveries(quiet) if str(row.job_id) == job_id}
    kept = {(row.delivery_id, row.number): row for row in await attempts(quiet) if row.delivery_id in of_job}
    told = {(UUID(step["deliveryId"]), step["attempt"]): step for step in steps if step["what"] == "attempt"}
    assert set(told) == set(kept)
    for place, row in kept.items():
        step = told[place]
        delivery = of_job[row.delivery_id]
        assert (step["at"], step["event"]) == (timestamp(row.at), delivery.event_type)
        assert (step["httpStatus"], step["error"], step["seconds"]) == (row.status, row.error, row.seconds)
        assert step["nextAttemptAt"] == (timestamp(row.next_at) if row.next_at else None)
        assert step["by"] == (subscription if delivery.subscription_id else "callback")
        assert step["byName"] is None
    assert sorted((step["by"] == "callback", step["event"], step["httpStatus"]) for step in told.values()) == [
        *((False, "job.cancelled", 503), (False, "job.queued", 503), (True, "job.cancelled", 200))
    ]


async def test_an_attempt_without_an_answer_is_told_with_its_error_and_the_next_one(quiet: Service) -> None:
    body = FLUX | {"webhook_url": f"http://127.0.0.1:{free_port()}/hook"}
    job_id = await quiet.caller.accepted(body, **LATER)
    await quiet.caller.http.post(f"/v1/jobs/{job_id}/cancel")
    await deliver.run_once(quiet.ctx)

    (*_, step) = (await traced(quiet.caller, job_id))["steps"]

    assert (step["what"], step["by"], step["attempt"], step["httpStatus"]) == ("attempt", "callback", 1, None)
    assert step["error"]
    assert re.fullmatch(TIME, step["nextAttemptAt"])
    assert trace.describe(step).startswith("attempt 1, event job.cancelled, error ")


async def test_a_delivery_that_ended_without_success_is_told_with_its_reason_after_its_last_attempt(
    quiet: Service,
) -> None:
    subscriber = await quiet.new_caller("tests", scopes=("subscribe",))
    async with receiving() as receiver:
        receiver.status = 410
        answer = await subscriber.http.post("/v1/subscriptions", json={"url": receiver.url, "types": ["job.*"]})
        job_id = await quiet.caller.accepted(FLUX, **LATER)
        await deliver.run_once(quiet.ctx)
        await quiet.caller.http.post(f"/v1/jobs/{job_id}/cancel")  # by now the subscription is disabled

    steps = [step for step in (await traced(quiet.caller, job_id))["steps"] if step["what"] in ("attempt", "delivery")]

    assert [(step["what"], step["event"]) for step in steps] == [
        *(("attempt", "job.queued"), ("delivery", "job.queued"), ("delivery", "job.cancelled"))
    ]
    _, gone, untold = steps
    for step, row in zip((gone, untold), [row for row in await deliveries(quiet) if row.job_id], strict=True):
        assert (step["at"], step["deliveryId"], step["by"]) == (
            *(timestamp(row.ended_at), str(row.id), answer.json()["id"]),
        )
        assert (step["status"], step["reason"]) == ("undelivered", row.reason)
        assert row.reason


async def test_what_other_teams_were_told_is_for_operators_only(quiet: Service) -> None:
    operator = await quiet.new_caller("operators", scopes=("admin",))
    subscriber = await quiet.new_caller("tests", scopes=("subscribe",))
    async with receiving() as receiver:
        receiver.status = 410
        wanted = {"url": receiver.url, "types": ["job.*"]}
        mine = (await subscriber.http.post("/v1/subscriptions", json=wanted)).json()["id"]
        theirs = (await operator.http.post("/v1/subscriptions", json=wanted | {"allTeams": True})).json()["id"]
        job_id = await quiet.caller.accepted(FLUX, **LATER)
        await deliver.run_once(quiet.ctx)

    for caller, told in ((quiet.caller, {mine}), (operator, {mine, theirs})):
        steps = (await traced(caller, job_id))["steps"]
        for what in ("attempt", "delivery"):
            assert {step["by"] for step in steps if step["what"] == what} == told


async def test_a_progress_that_was_not_worth_telling_any_more_is_told_as_dropped(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    async with receiving() as receiver:
        job = await held_job(service, simulator, body=FLUX | {"webhook_url": receiver.url})
        for event, said in (("progress", {"progress": 45}), ("completed", {"creditCost": 10})):
            body = job.says(event, **said)
            assert (await post_webhook(service, job.url, body, sign(body))).status_code == 200
        await deliver.run_once(service.ctx)

    told = [step for step in (await traced(service.caller, job.id))["steps"] if step["what"] in ("attempt", "delivery")]

    assert sorted((step["what"], step["event"], step.get("status")) for step in told) == [
        *(("attempt", "job.completed", None), ("delivery", "job.progress", "dropped"))
    ]


async def test_the_traced_job_shows_what_it_waits_for(quiet: Service) -> None:
    job_id = await quiet.caller.accepted(FLUX, **LATER, Idempotency_Key="order-7")

    waiting = (await traced(quiet.caller, job_id))["job"]
    assert {name: waiting[name] for name in await quiet.caller.read(job_id)} == await quiet.caller.read(job_id)
    assert (waiting["team"], waiting["idempotencyKey"], waiting["retryOf"]) == ("tests", "order-7", None)
    assert (waiting["upstreamId"], waiting["acceptedAt"], waiting["dispatchCount"], waiting["pollCount"]) == (
        *(None, None),
        *(0, 0),
    )
    assert re.fullmatch(TIME, waiting["nextDispatchAt"])
    assert (waiting["nextPollAt"], waiting["overdue"]) == (None, False)

    assert await dispatch.run_once(quiet.ctx) == 1
    other = uuid4()
    await change(quiet, job_id, f"accepted_at = now(), overdue_at = now() - interval '1 second', retry_of = '{other}'")
    sent = (await traced(quiet.caller, job_id))["job"]
    assert sent["upstreamId"] == (await quiet.job(job_id)).upstream_id
    assert (sent["dispatchCount"], sent["nextDispatchAt"], sent["retryOf"]) == (1, None, str(other))
    assert re.fullmatch(TIME, sent["nextPollAt"])
    assert re.fullmatch(TIME, sent["acceptedAt"])
    assert sent["overdue"] is True


async def test_a_job_becomes_overdue_at_its_time_and_not_before(quiet: Service) -> None:
    job_id = await quiet.caller.accepted(FLUX, **LATER)
    await change(quiet, job_id, "overdue_at = now() + interval '1 hour'")

    assert (await traced(quiet.caller, job_id))["job"]["overdue"] is False


async def test_the_id_may_be_the_upstreams(quiet: Service) -> None:
    job_id = await quiet.caller.accepted(FLUX, **LATER)
    other = await quiet.caller.accepted(FLUX, **LATER)
    upstream_id = str(uuid4())
    await change(quiet, job_id, f"upstream_id = '{upstream_id}'")
    await change(quiet, other, "upstream_id = 'not-a-uuid'")

    for given in (job_id, job_id.upper(), upstream_id, upstream_id.upper()):
        assert (await traced(quiet.caller, given))["job"]["id"] == job_id
    assert (await traced(quiet.caller, "not-a-uuid"))["job"]["id"] == other
    await change(quiet, other, f"upstream_id = '{job_id}'")
    assert (await traced(quiet.caller, job_id))["job"]["id"] == job_id


async def test_other_teams_traces_are_for_operators_only(quiet: Service) -> None:
    job_id = await quiet.caller.accepted(FLUX, **LATER)
    await change(quiet, job_id, "upstream_id = 'up-1'")
    stranger = await quiet.new_caller("strangers", scopes=("submit", "read", "subscribe"))
    submitter = await quiet.new_caller("tests", scopes=("submit",))

    for given in (job_id, "up-1", uuid4(), "x", "%00", "%F0%9F%8C%8A", "a" * 5000):
        refused(await stranger.http.get(f"/v1/jobs/{given}/trace"), 404)
    refused(await submitter.http.get(f"/v1/jobs/{job_id}/trace"), 403)
    refused(await stranger.http.get(f"/v1/jobs/{job_id}/trace", headers={"X-API-Key": "unknown"}), 401)
    for scope in ("ops", "admin"):
        operator = await quiet.new_caller("operators", scopes=(scope,))
        assert (await traced(operator, job_id))["job"]["team"] == "tests"


async def test_an_action_is_told_with_the_name_of_the_key_behind_it(quiet: Service) -> None:
    job_id = await quiet.caller.accepted(FLUX, **LATER)
    operator = await quiet.new_caller("operators", scopes=("ops",))
    async with quiet.ctx.db.transaction() as tx:
        await tx.execute(text("UPDATE api_keys SET name = 'night watch' WHERE id = :id"), {"id": operator.key_id})
    await note(quiet, job_id, 1, "action", str(operator.key_id), action="cancel")
    await note(quiet, job_id, 2, "action", str(uuid4()), action="retry")

    _, known, gone = (await traced(quiet.caller, job_id))["steps"]

    assert (UUID(known["by"]), known["byName"]) == (operator.key_id, "night watch")
    assert gone["byName"] is None


async def test_of_endless_steps_the_newest_are_told(quiet: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MOST_STEPS", 3)
    job_id = await quiet.caller.accepted(FLUX, **LATER)
    for number in range(3):
        await note(quiet, job_id, number + 1, "poll", "poll", said="404", missingCount=number)

    whole = await traced(quiet.caller, job_id)
    assert (whole["hasMore"], len(whole["steps"])) == (False, 4)
    await note(quiet, job_id, 4, "poll", "poll", said="404", missingCount=3)
    newest = await traced(quiet.caller, job_id)
    assert newest["hasMore"] is True
    assert [step.get("missingCount") for step in newest["steps"]] == [None, 1, 2, 3]


async def test_days_before_the_submission_are_not_looked_into(quiet: Service) -> None:
    job_id = await quiet.caller.accepted(FLUX, **LATER)
    async with quiet.ctx.db.transaction() as tx:
        for table in ("steps", "attempts"):
            await tx.exec_driver_sql(
                f"CREATE TABLE {table}_long_ago PARTITION OF {table} FOR VALUES FROM ('2020-01-01Z') TO ('2020-01-02Z')"
            )
    since = (await quiet.job(job_id)).created_at - trace.CLOCKS_DIFFER

    plan = await quiet.rows(
        f"EXPLAIN {queries._LIST_HAPPENINGS.text}", job_id=job_id, told_team=None, since=since, limit=10
    )

    scans = "\n".join(row[0] for row in plan)
    assert "steps_2" in scans
    assert "attempts_2" in scans
    assert "long_ago" not in scans


def test_the_details_of_a_step_are_told_in_one_line() -> None:
    step = {"at": "t", "afterSeconds": 1, "what": "dispatch", "by": "submit", "byName": None}
    assert trace.describe(step | {"attempt": 1, "verdict": "wait", "said": None}) == "attempt 1, verdict wait"
