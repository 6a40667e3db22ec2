"""What a monitoring system scrapes: no key is asked for, every process tells the same, and nothing private is in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from app.apiframe.signature import fingerprint
from app.jobs import dispatch
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, SIMULATOR_KEY, Service, refused

LATER: Final = {"Prefer": "respond-async"}
JOBS: Final = ("waiting", "in_flight", "ambiguous", "overdue")
KEEPING: Final = ("files_pending", "files_late", "files_failed", "oldest_pending_file_seconds")
TELLING: Final = ("deliveries_pending", "deliveries_undelivered", "subscriptions_disabled")


async def scrape(service: Service) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels, as asked for without a key."""
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as anyone:
        answer = await anyone.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(answer.text))
    assert all(family.type == "gauge" and family.documentation for family in families)
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


async def test_an_idle_service_has_all_its_gauges_at_zero(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, loops=False)

    found = await scrape(service)

    assert set(found.values()) == {0.0}
    assert {name for name, *_ in found} == {
        *(f"framehook_jobs_{name}" for name in JOBS),
        *(f"framehook_{name}" for name in (*TELLING, *KEEPING)),
        *("framehook_oldest_waiting_seconds", "framehook_oldest_due_seconds", "framehook_dispatch_held"),
    }
    assert SIMULATOR_KEY not in str(found)


async def test_gauges_that_cannot_be_read_are_an_error_rather_than_zeros(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, loops=False)
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("ALTER TABLE upstream_keys RENAME TO elsewhere")

    refused(await service.caller.http.get("/metrics"), 503)
