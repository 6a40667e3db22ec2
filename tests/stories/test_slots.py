"""Slots are counted from rows under one lock: the cap holds over processes, and no team starves another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from app.clock import SettableClock
from app.jobs import dispatch, expire, upstream
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Service, books, eventually, settled, tell


async def running_teams(service: Service) -> list[str]:
    rows = await service.rows(
        "SELECT t.name FROM jobs j JOIN teams t ON t.id = j.team_id WHERE j.upstream_id IS NOT NULL ORDER BY j.created_at"
    )
    return [row.name for row in rows]


async def notes(service: Service) -> list[str]:
    answer = await service.caller.http.get("/readyz")
    assert answer.status_code == 200
    degraded: list[str] = answer.json()["degraded"]
    return degraded


async def test_two_processes_together_never_exceed_the_cap(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhook_url", enforce_cap=False, generate_seconds=0.1)
    one, other = [await serve(simulator, max_in_flight=3, reconcile_after_seconds=5) for _ in range(2)]

    job_ids = await asyncio.gather(
        *(service.caller.accepted(FLUX) for _ in range(10) for service in (one, other)),
    )

    assert len(set(job_ids)) == 20
    await eventually(
        lambda: one.rows("SELECT count(*) AS n FROM jobs WHERE status = 'COMPLETED'"),
        lambda rows: rows[0].n == 20,
        seconds=240,
    )
    counters = (await books(simulator))["counters"]
    assert counters["accepted"] == 20
    assert counters["max_in_flight_seen"] <= 3


async def test_a_paused_team_waits_and_the_others_go_on(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhook_url", hold=True)
    service = await serve(simulator, loops=False)
    calm = await service.new_caller("calm")
    assert await upstream.set_paused(service.ctx, "calm", paused=True)
    assert not await upstream.set_paused(service.ctx, "nobody", paused=True)

    waiting, sent = await calm.accepted(FLUX), await service.caller.accepted(FLUX)

    assert (await service.job(waiting)).ambiguous_since is None
    assert (await service.job(sent)).upstream_id is not None
    assert any("the team calm" in note for note in await notes(service))
    await upstream.set_paused(service.ctx, "calm", paused=False)
    assert await dispatch.run_once(service.ctx) == 1


async def test_while_dispatch_is_paused_jobs_are_accepted_and_nothing_is_sent(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhook_url", hold=True)
    service = await serve(simulator, loops=False)
    assert await upstream.set_paused(service.ctx, None, paused=True)

    job_id = await service.caller.accepted(FLUX)

    assert await dispatch.run_once(service.ctx) == 0
    assert (await books(simulator))["counters"]["submissions"] == 0
    assert any("paused by an operator" in note for note in await notes(service))
    await upstream.set_paused(service.ctx, None, paused=False)
    assert await dispatch.run_once(service.ctx) == 1
    assert (await service.job(job_id)).upstream_id is not None


async def test_a_team_with_ten_thousand_waiting_jobs_delays_anothers_first_job_by_less_than_one_slot(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhook_url", hold=True)
    service = await serve(simulator, loops=False, max_in_flight=2)
    crowd, lonely = await service.new_caller("crowd"), await service.new_caller("lonely")
    first = await crowd.accepted(FLUX, Prefer="respond-async")
    columns = "team_id, key_id, created_at, updated_at, operation, model, input, status, upstream_account, wire_body"
    await service.rows(
        f"INSERT INTO jobs (id, {columns}, dispatch_at) SELECT gen_random_uuid(), {columns}, dispatch_at"
        " FROM jobs, generate_series(2, 10000) WHERE id = :id RETURNING 1",
        id=first,
    )
    assert await dispatch.run_once(service.ctx) == 2
    await lonely.accepted(FLUX, Prefer="respond-async")
    (running, _) = await service.rows("SELECT upstream_id FROM jobs WHERE upstream_id IS NOT NULL")

    await tell(simulator, f"jobs/{running.upstream_id}/finish", status="COMPLETED", wait=True)
    assert await dispatch.run_once(service.ctx) == 1

    assert sorted(await running_teams(service)) == ["crowd", "crowd", "lonely"]


async def test_a_submission_without_a_free_slot_is_accepted_at_once_and_sent_when_one_is_free(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhook_url", hold=True)
    service = await serve(simulator, max_in_flight=1)
    first = await service.caller.accepted(FLUX)
    second = await service.caller.accepted(FLUX)
    assert (await service.job(second)).ambiguous_since is None

    await tell(simulator, f"jobs/{(await service.job(first)).upstream_id}/finish", status="COMPLETED")

    await eventually(lambda: service.job(second), lambda job: job.upstream_id is not None)


async def test_a_team_with_a_long_queue_gives_the_next_slot_to_a_team_without_one(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhook_url", hold=True)
    service = await serve(simulator, loops=False, max_in_flight=2)
    crowd, lonely = await service.new_caller("crowd"), await service.new_caller("lonely")
    for _ in range(20):
        await crowd.accepted(FLUX, Prefer="respond-async")
    await dispatch.run_once(service.ctx)
    assert await running_teams(service) == ["crowd", "crowd"]
    await crowd.accepted(FLUX)
    await lonely.accepted(FLUX, Prefer="respond-async")
    (job,) = await service.rows("SELECT upstream_id FROM jobs WHERE upstream_id IS NOT NULL LIMIT 1")

    await tell(simulator, f"jobs/{job.upstream_id}/finish", status="COMPLETED")
    await eventually(lambda: service.rows("SELECT 1 FROM jobs WHERE status = 'COMPLETED'"))
    await dispatch.run_once(service.ctx)

    assert sorted(await running_teams(service)) == ["crowd", "crowd", "lonely"]


async def test_within_a_team_priority_goes_before_age(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhook_url", hold=True)
    service = await serve(simulator, loops=False, max_in_flight=1)
    await service.caller.accepted(FLUX, Prefer="respond-async")
    urgent = await service.caller.accepted(FLUX | {"priority": 5}, Prefer="respond-async")

    await dispatch.run_once(service.ctx)

    assert (await service.job(urgent)).upstream_id is not None


async def test_an_inline_submission_does_not_overtake_the_queue(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhook_url", hold=True)
    service = await serve(simulator, loops=False, max_in_flight=1)
    waiting = await service.caller.accepted(FLUX, Prefer="respond-async")

    late = await service.caller.accepted(FLUX)

    assert (await service.job(late)).upstream_id is None
    await dispatch.run_once(service.ctx)
    assert (await service.job(waiting)).upstream_id is not None


async def test_the_cap_is_what_the_account_says(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhook_url", hold=True, max_concurrent_jobs=4)
    service = await serve(simulator, loops=False)
    await upstream.refresh_once(service.ctx)
    for _ in range(6):
        await service.caller.accepted(FLUX, Prefer="respond-async")

    assert await dispatch.run_once(service.ctx) == 4
    assert await dispatch.run_once(service.ctx) == 0


async def test_a_refused_key_pauses_dispatch_and_fails_no_job(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhook_url", hold=True, inactive_keys=("afk_inactive_key_for_tests",))
    for wrong_key in ("afk_unknown_key_for_tests", "afk_inactive_key_for_tests"):
        broken = await serve(simulator, loops=False, apiframe_api_key=wrong_key)
        broken.ctx.clock = clock = SettableClock()
        clock.advance(100)  # past the pause that an earlier round left
        job_id = await broken.caller.accepted(FLUX)
        job = await broken.job(job_id)
        assert (job.status, job.ambiguous_since) == ("QUEUED", None)
        await settled(broken)
        assert any("paused" in note for note in await notes(broken))
        assert await dispatch.run_once(broken.ctx) == 0

        mended = await serve(simulator, loops=False)
        mended.ctx.clock = clock
        clock.advance(100)
        assert await dispatch.run_once(mended.ctx) == 1
        assert (await mended.job(job_id)).upstream_id is not None
        clock.advance(100)


async def test_a_job_that_could_not_be_sent_for_the_whole_window_fails_and_says_so(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(webhook_field="webhook_url", hold=True)
    service = await serve(simulator, loops=False, max_in_flight=1, dispatch_window_hours=2)
    service.ctx.clock = clock = SettableClock()
    await service.caller.accepted(FLUX)
    waiting = await service.caller.accepted(FLUX)
    clock.advance(2 * 3600 - 60)
    assert await expire.run_once(service.ctx) == 0

    clock.advance(120)
    assert await expire.run_once(service.ctx) == 1

    job = await service.caller.read(waiting)
    assert (job["status"], job["errorCode"]) == ("FAILED", "dispatch_window_passed")
