"""How things stand: what the account may do, which of its keys are held, who is paused, what waits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import pytest
from sqlalchemy import text

from app.apiframe.signature import fingerprint
from app.jobs import dispatch
from app.ops import queries, status, totals
from app.ops.processes import Presence
from app.simulator.server import RunningSimulator
from tests.harness import (
    FLUX,
    SIMULATOR_KEY,
    Caller,
    Service,
    eventually,
    held_job,
    post_webhook,
    refused,
    settled,
    tell,
)

LATER: Final = {"Prefer": "respond-async"}
TIME: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]) -> Service:
    """A service that sends nothing by itself, to an upstream whose jobs do not end."""
    started: Service = await serve(simulate(hold=True), loops=False)
    return started


@pytest.fixture
async def operator(quiet: Service) -> Caller:
    """Whoever may ask."""
    return await quiet.new_caller("operators", scopes=("ops",))


async def stands(operator: Caller) -> dict[str, Any]:
    answer = await operator.http.get("/v1/status")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def change(service: Service, statement: str, **values: Any) -> None:
    async with service.ctx.db.transaction() as tx:
        await tx.execute(text(statement), values)


async def listen(service: Service, count: int, **fields: Any) -> list[str]:
    """Subscribe so often to all that happens to the jobs of the callers' team, at an address that is not called here."""
    subscriber = await service.new_caller("tests", scopes=("subscribe",))
    wanted = {"url": "http://127.0.0.1:9/hook", "types": ["job.*"], **fields}
    answers = [await subscriber.http.post("/v1/subscriptions", json=wanted) for _ in range(count)]
    return [answer.json()["id"] for answer in answers]


async def break_key(
    service: Service, name: str, held_seconds: float | None, reason: str | None, *, must_probe: bool = False
) -> None:
    """Write down what the circuit breaker of a key says."""
    held_until = None if held_seconds is None else service.ctx.now() + timedelta(seconds=held_seconds)
    await change(
        service,
        """
        INSERT INTO upstream_keys (account, fingerprint, failure_count, held_until, hold_reason, must_probe, updated_at)
        VALUES (:account, :name, 4, :held_until, :reason, :must_probe, now())
        ON CONFLICT (account, fingerprint) DO UPDATE SET held_until = excluded.held_until,
            hold_reason = excluded.hold_reason, must_probe = excluded.must_probe
        """,
        account=service.ctx.account,
        name=name,
        held_until=held_until,
        reason=reason,
        must_probe=must_probe,
    )


async def test_a_service_that_has_sent_nothing_yet_says_what_it_would_do(quiet: Service, operator: Caller) -> None:
    await eventually(lambda: quiet.rows("SELECT 1 FROM processes WHERE role = 'serve'"))

    found = await stands(operator)

    (process,) = found.pop("processes")
    assert (process["role"], process["pid"], process["loops"]) == ("serve", os.getpid(), [])
    assert found == {
        "upstream": {
            "account": quiet.ctx.account,
            "cap": 10,
            "capLoweredTo": None,
            "pausedAt": None,
            "webhookField": None,
            "trouble": None,
            "troubleAt": None,
            "inFlight": 0,
            "ambiguous": 0,
            "keys": [
                {
                    "fingerprint": fingerprint(SIMULATOR_KEY),
                    "state": "ready",
                    "heldUntil": None,
                    "reason": None,
                    "failureCount": 0,
                }
            ],
        },
        "teams": {"paused": []},
        "jobs": {
            "waiting": 0,
            "moreWaiting": False,
            "oldestWaitingSeconds": None,
            "overdue": 0,
            "moreOverdue": False,
        },
        "deliveries": {
            "pending": 0,
            "morePending": False,
            "oldestDueSeconds": None,
            "undelivered": 0,
            "moreUndelivered": False,
            "disabledSubscriptions": 0,
        },
        "files": {
            "on": False,
            "pending": 0,
            "morePending": False,
            "oldestPendingSeconds": None,
            "late": 0,
            "failed": 0,
            "moreFailed": False,
        },
        "webhooks": {
            "pollOnly": False,
            "unsigned": "poll",
            "lastReceivedAt": None,
            "lastAppliedAt": None,
            "endedByWebhook": 0,
            "endedByPoll": 0,
            "endedByPollShare": None,
        },
        "log": {"head": 0, "readers": []},
    }


async def test_webhooks_loops_and_readers_of_the_log_are_told(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    operator = await service.new_caller("operators", scopes=("ops",))
    job = await held_job(service, simulator)
    await post_webhook(service, job.url, job.says("progress", progress=5), None)
    told = (await stands(operator))["webhooks"]
    assert re.fullmatch(TIME, told["lastReceivedAt"])
    assert told["lastAppliedAt"] is None, "an unsigned one was only a hint"
    await tell(simulator, f"jobs/{job.upstream_id}/finish")

    async def look() -> dict[str, Any]:
        return dict((await stands(operator))["webhooks"])

    await eventually(look, lambda told: told["lastAppliedAt"] is not None)
    await change(
        service,
        """
        INSERT INTO tallies (span, begins_at, team_id, operation, model, by_webhook, by_poll)
        SELECT 'minutes', now() - ago * interval '1 minute', id, 'images/generate', 'flux', 3, ago
        FROM teams, unnest(ARRAY[1, 90]) AS ago WHERE name = 'tests'
        """,
    )
    service.ctx.measures.loop("deliver", 0.5).note(0.1, RuntimeError("it broke"))
    await Presence(service.ctx, "worker").tell()
    await totals.run_once(service.ctx)
    await change(service, "UPDATE log_readers SET sequence = sequence - 1")

    found = await stands(operator)

    assert {name: value for name, value in found["webhooks"].items() if name.startswith("ended")} == {
        "endedByWebhook": 3,
        "endedByPoll": 1,
        "endedByPollShare": 0.25,
    }
    (loop,) = next(one["loops"] for one in found["processes"] if one["role"] == "worker")
    assert (loop["name"], loop["turnSeconds"], loop["lastError"]) == ("deliver", 0.1, "RuntimeError: it broke")
    assert loop["late"] is False
    (reader,) = found["log"]["readers"]
    assert (reader["name"], reader["behind"]) == ("totals", 1)
    assert 0 < reader["behindSeconds"] < 60


async def test_jobs_are_counted_by_what_they_wait_for(quiet: Service, operator: Caller) -> None:
    stranger = await quiet.new_caller("strangers")
    sent, unclear, overdue, over = [await quiet.caller.accepted(FLUX, **LATER) for _ in range(4)]
    assert await dispatch.run_once(quiet.ctx) == 4
    oldest = await stranger.accepted(FLUX | {"priority": -5}, **LATER)
    await stranger.accepted(FLUX | {"priority": 5}, **LATER)
    await quiet.caller.accepted(FLUX, **LATER)
    await change(quiet, "UPDATE jobs SET created_at = now() - interval '90 seconds' WHERE id = :id", id=oldest)
    await change(quiet, "UPDATE jobs SET upstream_id = NULL WHERE id = :id", id=unclear)
    await change(quiet, "UPDATE jobs SET overdue_at = now() + interval '1 hour' WHERE id = :id", id=sent)
    for job_id in (overdue, over):
        await change(quiet, "UPDATE jobs SET overdue_at = now() - interval '1 second' WHERE id = :id", id=job_id)
    await change(
        quiet,
        "UPDATE jobs SET completed_at = now(), status = 'FAILED', concluded_by = 'upstream' WHERE id = :id",
        id=over,
    )

    found = await stands(operator)

    assert (found["upstream"]["inFlight"], found["upstream"]["ambiguous"]) == (3, 1)
    assert (found["jobs"]["waiting"], found["jobs"]["moreWaiting"]) == (3, False)
    assert (found["jobs"]["overdue"], found["jobs"]["moreOverdue"]) == (1, False)
    assert 90 <= found["jobs"]["oldestWaitingSeconds"] < 180


async def test_a_count_stops_and_says_so(quiet: Service, operator: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "MOST_COUNTED", 2)
    for _ in range(3):
        await quiet.caller.accepted(FLUX, **LATER)
    await change(quiet, "UPDATE jobs SET overdue_at = now()")

    found = (await stands(operator))["jobs"]

    assert (found["waiting"], found["moreWaiting"]) == (2, True)
    assert (found["overdue"], found["moreOverdue"]) == (2, True)


async def test_deliveries_are_counted_by_how_they_go(quiet: Service, operator: Caller) -> None:
    late, later, leased, off, gone = await listen(quiet, 5)
    await change(quiet, "UPDATE subscriptions SET disabled_at = now() WHERE id IN (:off, :gone)", off=off, gone=gone)
    await change(quiet, "UPDATE subscriptions SET deleted_at = now() WHERE id = :gone", gone=gone)
    await quiet.caller.accepted(FLUX, **LATER)
    due = (
        "UPDATE deliveries SET due_at = now() + CAST(:wait AS interval), retrying = :again WHERE subscription_id = :id"
    )
    for subscription, wait, again in ((late, -90, True), (later, -30, False), (leased, 25, False)):
        await change(quiet, due, id=subscription, wait=timedelta(seconds=wait), again=again)
    await change(quiet, "UPDATE deliveries SET lease_token = gen_random_uuid() WHERE subscription_id = :id", id=leased)

    found = (await stands(operator))["deliveries"]

    assert 90 <= found.pop("oldestDueSeconds") < 180
    assert found == {
        "pending": 3,
        "morePending": False,
        "undelivered": 1,
        "moreUndelivered": False,
        "disabledSubscriptions": 1,
    }


async def test_no_delivery_is_late_before_its_time(quiet: Service, operator: Caller) -> None:
    await listen(quiet, 1)
    await quiet.caller.accepted(FLUX, **LATER)
    await change(quiet, "UPDATE deliveries SET due_at = now() + interval '1 hour'")

    found = (await stands(operator))["deliveries"]

    assert (found["pending"], found["oldestDueSeconds"]) == (1, None)


async def test_a_count_of_deliveries_stops_and_says_so(
    quiet: Service, operator: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "MOST_COUNTED", 2)
    on = await listen(quiet, 3)
    off = await listen(quiet, 3)
    for subscription in off:
        await change(quiet, "UPDATE subscriptions SET disabled_at = now() WHERE id = :id", id=subscription)
    assert len({*on, *off}) == 6
    await quiet.caller.accepted(FLUX, **LATER)

    found = (await stands(operator))["deliveries"]

    assert (found["pending"], found["morePending"]) == (2, True)
    assert (found["undelivered"], found["moreUndelivered"]) == (2, True)
    assert found["disabledSubscriptions"] == 2


async def test_a_key_is_held_until_its_time_then_probed_then_ready(quiet: Service, operator: Caller) -> None:
    name = fingerprint(SIMULATOR_KEY)
    await break_key(quiet, "of-a-key-that-is-gone", 600, "refused")

    await break_key(quiet, name, 600, "our key is refused: 401", must_probe=True)
    (held,) = (await stands(operator))["upstream"]["keys"]
    await break_key(quiet, name, -1, "our key is refused: 401", must_probe=True)
    (probing,) = (await stands(operator))["upstream"]["keys"]
    await break_key(quiet, name, -1, "our key is refused: 401")
    (ready,) = (await stands(operator))["upstream"]["keys"]

    assert (held["state"], held["reason"], held["failureCount"]) == ("held", "our key is refused: 401", 4)
    assert re.fullmatch(TIME, held["heldUntil"])
    assert (probing["state"], probing["heldUntil"], probing["reason"]) == ("probing", None, "our key is refused: 401")
    assert (ready["state"], ready["heldUntil"], ready["reason"]) == ("ready", None, None)


async def test_the_account_says_what_was_learned_of_it(quiet: Service, operator: Caller) -> None:
    await quiet.caller.accepted(FLUX)  # makes the account's row
    await settled(quiet)
    await change(
        quiet,
        """
        UPDATE upstream_accounts SET cap = 25, cap_lowered_to = 7, cap_lowered_until = now() + interval '1 minute',
            paused_at = now(), webhook_field = 'webhookUrl', trouble = 'signatures', trouble_at = now()
        """,
    )
    found = (await stands(operator))["upstream"]
    assert (found["cap"], found["capLoweredTo"]) == (25, 7)
    assert (found["webhookField"], found["trouble"]) == ("webhookUrl", "signatures")
    assert re.fullmatch(TIME, found["pausedAt"])
    assert re.fullmatch(TIME, found["troubleAt"])

    await change(
        quiet, "UPDATE upstream_accounts SET cap_lowered_until = now() - interval '1 second', paused_at = NULL"
    )
    found = (await stands(operator))["upstream"]
    assert (found["capLoweredTo"], found["pausedAt"]) == (None, None)


async def test_settings_go_before_what_was_learned(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    service = await serve(
        simulate(hold=True), loops=False, max_in_flight=3, webhook_field="webhook_url", public_base_url=None
    )
    operator = await service.new_caller("operators", scopes=("admin",))
    await service.caller.accepted(FLUX)
    await change(service, "UPDATE upstream_accounts SET cap = 25, webhook_field = 'webhookUrl'")

    found = await stands(operator)

    assert (found["upstream"]["cap"], found["upstream"]["webhookField"]) == (3, "webhook_url")
    assert found["webhooks"]["pollOnly"] is True


async def test_paused_teams_are_named(quiet: Service, operator: Caller) -> None:
    await quiet.new_caller("archive")
    await change(quiet, "UPDATE teams SET paused_at = now() WHERE name IN ('tests', 'archive')")

    assert (await stands(operator))["teams"]["paused"] == ["archive", "tests"]


async def test_only_operators_may_ask(quiet: Service) -> None:
    others = await quiet.new_caller("tests", scopes=("submit", "read", "subscribe"))

    assert "ops" in refused(await others.http.get("/v1/status"), 403)["error"]
    refused(await others.http.get("/v1/status", headers={"X-API-Key": "unknown"}), 401)


async def test_the_oldest_that_waits_is_found_without_reading_all_that_wait(quiet: Service) -> None:
    """By the index, one step for each priority of each team; what is over long since is not looked at either."""
    template = await quiet.caller.accepted(FLUX, **LATER)
    await change(
        quiet,
        """
        INSERT INTO jobs (id, team_id, key_id, created_at, updated_at, operation, model, input, upstream_account,
            wire_body, priority, status, completed_at, dispatch_at)
        SELECT gen_random_uuid(), team_id, key_id, created_at + n * interval '1 ms', updated_at, operation, model, input,
            upstream_account, wire_body, n % 3,
            CASE WHEN n <= 9000 THEN 'FAILED' ELSE 'QUEUED' END,
            CASE WHEN n <= 9000 THEN created_at END,
            CASE WHEN n > 9000 THEN created_at END
        FROM jobs CROSS JOIN generate_series(1, 12000) AS n WHERE id = :id
        """,
        id=template,
    )
    async with quiet.ctx.db.reading() as connection:
        await connection.execute(text("VACUUM ANALYZE jobs"))

    load = await status.read_load(quiet.ctx)
    (plan,) = await quiet.rows(
        f"EXPLAIN (ANALYZE, FORMAT JSON) {queries._COUNT_JOBS.text}",
        account=quiet.ctx.account,
        now=quiet.ctx.now(),
        limit=101,
    )

    assert load.waiting == 3001
    assert load.oldest_waiting_seconds is not None
    read = list(rows_read(plan[0][0]["Plan"]))
    assert {name for name, _ in read} <= {"ix_jobs_waiting", "ix_jobs_in_flight", "ix_jobs_overdue", "teams", "head"}
    assert sum(count for _, count in read) < 200


async def test_the_oldest_that_is_due_is_found_without_reading_all_that_are_or_that_ended(quiet: Service) -> None:
    """By the index, one step for each lane of each target."""
    await listen(quiet, 3)
    await quiet.caller.accepted(FLUX, **LATER)
    await change(
        quiet,
        """
        INSERT INTO deliveries (id, event_id, event_at, event_type, team_id, job_id, subscription_id, target, created_at,
            status, ended_at, due_at, retrying)
        SELECT gen_random_uuid(), gen_random_uuid(), event_at, event_type, team_id, job_id, subscription_id, target,
            created_at,
            CASE WHEN n <= 3000 THEN 'pending' WHEN n <= 4000 THEN 'undelivered' ELSE 'delivered' END,
            CASE WHEN n > 3000 THEN created_at END,
            CASE WHEN n <= 3000 THEN created_at - n * interval '1 s' END,
            n % 2 = 0 AND n <= 3000
        FROM deliveries CROSS JOIN generate_series(1, 10000) AS n
        """,
    )
    async with quiet.ctx.db.reading() as connection:
        await connection.execute(text("VACUUM ANALYZE deliveries"))

    telling = await status.read_telling(quiet.ctx)
    (plan,) = await quiet.rows(
        f"EXPLAIN (ANALYZE, FORMAT JSON) {queries._COUNT_DELIVERIES.text}", now=quiet.ctx.now(), limit=101
    )

    assert telling.pending == 9003
    assert telling.oldest_due_seconds is not None
    assert telling.oldest_due_seconds >= 3000
    assert telling.undelivered == 3000
    read = list(rows_read(plan[0][0]["Plan"]))
    indexes = {"ix_deliveries_due", "ix_deliveries_undelivered"}
    assert indexes <= {name for name, _ in read} <= indexes | {"ix_subscriptions_team", "subscriptions", "head"}
    assert sum(count for _, count in read) < 300


def rows_read(node: dict[str, Any]) -> Any:
    """What each scan of a plan reads: an index or a table, and how many rows of it."""
    name = node.get("Index Name") or node.get("Relation Name") or node.get("CTE Name")
    if name:
        yield name, node["Actual Rows"] * node["Actual Loops"]
    for child in node.get("Plans", ()):
        yield from rows_read(child)
