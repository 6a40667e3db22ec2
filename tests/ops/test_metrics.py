"""What a monitoring system scrapes: no key is asked for, every process tells the same, and nothing private is in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import httpx
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from app.apiframe.signature import fingerprint, webhook_url
from app.jobs import dispatch
from app.ops.metrics import render_metrics
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, NO_TLS, SIMULATOR_KEY, Service, eventually, post_webhook, refused
from tests.processes.harness import free_port
from tests.statements import listening

LATER: Final = {"Prefer": "respond-async"}
JOBS: Final = ("waiting", "in_flight", "ambiguous", "overdue")
KEEPING: Final = ("files_pending", "files_late", "files_failed", "oldest_pending_file_seconds")
LARGE: Final = ("jobs", "deliveries", "events", "files", "receipts")
TELLING: Final = ("deliveries_pending", "deliveries_undelivered", "subscriptions_disabled")


async def scrape(service: Service) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels, as asked for without a key."""
    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60, verify=NO_TLS) as anyone:
        answer = await anyone.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(answer.text))
    assert all(re.fullmatch(r"[A-Z0-9].+\.|1 where .+\.", family.documentation) for family in families)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


async def test_the_gauges_tell_what_is_in_the_database(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(hold=True)
    service, other = [await serve(simulator, loops=False) for _ in range(2)]
    await service.caller.accepted(FLUX, **LATER)
    _, unclear = [await service.caller.accepted(FLUX, **LATER) for _ in range(2)]
    assert await dispatch.run_once(service.ctx) == 3
    await service.caller.accepted(FLUX, **LATER)
    async with service.ctx.db.transaction() as tx:
        await tx.execute(
            text("UPDATE jobs SET upstream_id = NULL, overdue_at = created_at WHERE id = :id"), {"id": unclear}
        )
        await tx.execute(
            text("UPDATE jobs SET created_at = now() - interval '90 seconds' WHERE ambiguous_since IS NULL")
        )

    found = await scrape(service)

    assert [found[f"framehook_jobs_{name}",] for name in JOBS] == [1, 3, 1, 1]
    assert 90 <= found["framehook_oldest_waiting_seconds",] < 180
    elsewhere = await scrape(other)
    assert [elsewhere[f"framehook_jobs_{name}",] for name in JOBS] == [1, 3, 1, 1]


async def test_the_gauges_tell_how_deliveries_go(serve: Callable[..., Any], simulator: RunningSimulator) -> None:
    service = await serve(simulator, loops=False)
    subscriber = await service.new_caller("tests", scopes=("subscribe",))
    wanted = {"url": "http://127.0.0.1:9/hook", "types": ["job.*"]}
    _, _, off = [(await subscriber.http.post("/v1/subscriptions", json=wanted)).json()["id"] for _ in range(3)]
    async with service.ctx.db.transaction() as tx:
        await tx.execute(text("UPDATE subscriptions SET disabled_at = now() WHERE id = :id"), {"id": off})
    await service.caller.accepted(FLUX, **LATER)
    async with service.ctx.db.transaction() as tx:
        await tx.execute(text("UPDATE deliveries SET due_at = now() - interval '90 seconds' WHERE due_at IS NOT NULL"))

    found = await scrape(service)

    assert [found[f"framehook_{name}",] for name in TELLING] == [2, 1, 1]
    assert 90 <= found["framehook_oldest_due_seconds",] < 180


async def test_a_key_that_is_held_or_probing_is_seen(serve: Callable[..., Any], simulator: RunningSimulator) -> None:
    service = await serve(simulator, loops=False)
    key = fingerprint(SIMULATOR_KEY)

    async def after(assignments: str) -> tuple[float, float]:
        async with service.ctx.db.transaction() as tx:
            await tx.execute(text(f"UPDATE upstream_keys SET {assignments}"))
        found = await scrape(service)
        return found["framehook_dispatch_held", key, "held"], found["framehook_dispatch_held", key, "probing"]

    assert await after("updated_at = now()") == (0, 0)
    async with service.ctx.db.transaction() as tx:
        await tx.execute(
            text("INSERT INTO upstream_keys (account, fingerprint, updated_at) VALUES (:account, :key, now())"),
            {"account": service.ctx.account, "key": key},
        )
    assert await after("held_until = now() + interval '1 minute', must_probe = true") == (1, 0)
    assert await after("held_until = now() - interval '1 second'") == (0, 1)
    assert await after("must_probe = false") == (0, 0)


async def test_an_idle_service_has_all_its_gauges_and_counters_at_once(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, loops=False)
    await eventually(lambda: service.rows("SELECT 1 FROM processes WHERE role = 'serve'"))

    found = await scrape(service)

    given = {
        "framehook_jobs_cap": 10,
        "framehook_processes": 1,
        "framehook_pool_size": 5,
        "framehook_partitions_days_ahead": 14,
    }
    for name, value in given.items():
        assert next(each for (key, *_), each in found.items() if key == name) == value
    measured = ("framehook_pool_wait_seconds", "framehook_pool_in_use", "framehook_batch_items")
    assert {value for (name, *_), value in found.items() if name not in given and not name.startswith(measured)} == {
        0.0
    }
    assert {name for name, *_ in found} >= {
        *(f"framehook_jobs_{name}" for name in JOBS),
        *(f"framehook_{name}" for name in (*TELLING, *KEEPING)),
        *("framehook_oldest_waiting_seconds", "framehook_oldest_due_seconds", "framehook_dispatch_held"),
        *("framehook_webhooks_total", "framehook_dispatches_total", "framehook_submit_seconds_count"),
        *("framehook_jobs_ended_total", "framehook_webhook_lag_seconds_bucket", "framehook_oldest_retry_seconds"),
    }
    assert SIMULATOR_KEY not in str(found)


async def test_what_happens_is_measured_once_where_it_happens(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate()
    service = await serve(simulator, allowed_targets="127.0.0.1")
    subscriber = await service.new_caller("tests", scopes=("subscribe",))
    nobody = f"http://127.0.0.1:{free_port()}/hook"
    await subscriber.http.post("/v1/subscriptions", json={"url": nobody, "types": ["job.completed"]})
    job_id = await service.caller.accepted(FLUX)
    await eventually(lambda: service.caller.read(job_id, wait=15), lambda job: job["status"] == "COMPLETED")
    refused(await service.caller.submit({"model": 1}), 400)
    refused(await service.caller.submit(FLUX, X_API_Key="fh_live_nobody_has_this_key"), 401)
    (secret, *_) = await service.ctx.webhook_secrets()
    url = webhook_url(service.url, secret, UUID(job_id))
    assert (await service.caller.http.post(f"{url}x", content=b"{}")).status_code == 404
    body = b'{"event": "progress", "jobId": "x"}'
    await post_webhook(service, url, body, None)
    await post_webhook(service, url, body, "sha256=00")

    async def look() -> dict[tuple[str, ...], float]:
        return await scrape(service)

    expected = {
        ("framehook_submit_seconds_count", "2xx"): 1,
        ("framehook_submit_seconds_count", "4xx"): 2,
        ("framehook_submit_seconds_count", "5xx"): 0,
        ("framehook_dispatches_total", "accepted"): 1,
        ("framehook_dispatch_seconds_count", "accepted"): 1,
        ("framehook_webhooks_total", "unknown_token"): 1,
        ("framehook_webhooks_total", "unsigned"): 1,
        ("framehook_webhooks_total", "wrong_signature"): 1,
        ("framehook_jobs_total", "flux-1.1-pro-ultra", "COMPLETED", "tests"): 1,
        ("framehook_jobs_submitted_total", "flux-1.1-pro-ultra", "tests"): 1,
        ("framehook_job_queue_seconds_count",): 1,
        ("framehook_job_generation_seconds_count",): 1,
        ("framehook_log_lag_events", "totals"): 0,
    }
    unreachable = ("framehook_delivery_attempts_total", "unreachable")  # tried again after seconds, hence not just once
    found = await eventually(
        look, lambda found: {key: found.get(key) for key in expected} == expected and found[unreachable]
    )
    mouths = {key[1]: value for key, value in found.items() if key[0] == "framehook_jobs_ended_total"}
    assert sum(mouths.values()) == mouths["webhook"] + mouths["poll"] == 1
    applied = found["framehook_webhooks_total", "applied"] + found["framehook_webhooks_total", "repeated"]
    assert found["framehook_webhook_seconds_count",] == applied + 2
    assert found["framehook_batch_items_sum", "submit.accept"] == 1
    assert found["framehook_loop_age_seconds", "dispatch"] < 30
    assert found["framehook_loop_interval_seconds", "sandbox_dispatch"] == 0.5


async def test_a_scrape_and_the_status_read_no_table_from_end_to_end(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, loops=False)
    operator = await service.new_caller("operators", scopes=("ops",))
    asked: dict[str, Any] = {}

    def note(_connection: Any, statement: str, parameters: tuple[Any, ...]) -> None:
        asked[statement] = parameters

    with listening(service.ctx.db, note):
        await scrape(service)
        assert (await operator.http.get("/v1/status")).status_code == 200

    named: set[str] = set()
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for statement, parameters in asked.items():
            if statement.lstrip().startswith(("SELECT", "WITH")):
                plan = (await tx.exec_driver_sql(f"EXPLAIN {statement}", parameters)).scalars().all()
                named |= {table for table in LARGE if table in statement}
                assert [line for line in plan if re.search(rf"Seq Scan on ({'|'.join(LARGE)})", line)] == [], statement
    assert named == set(LARGE)


async def test_a_scrape_takes_few_statements(serve: Callable[..., Any], simulator: RunningSimulator) -> None:
    service = await serve(simulator, loops=False)
    statements: list[str] = []
    with listening(service.ctx.db, lambda *told: statements.append(told[1])):
        for _ in range(10):
            await render_metrics(service.ctx)
    assert len(statements) <= 10 * 16


async def test_gauges_that_cannot_be_read_are_an_error_rather_than_zeros(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, loops=False)
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("ALTER TABLE upstream_keys RENAME TO elsewhere")

    refused(await service.caller.http.get("/metrics"), 503)
