"""The upstream down, refusing or slow: submissions are answered, one request probes, and all complete when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from app.jobs import breaker, dispatch
from app.jobs.claim import claim_jobs
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, FrozenClock, Service, books, eventually, settled, tell

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]


async def counters(simulator: RunningSimulator) -> Any:
    return (await books(simulator))["counters"]


async def submissions(simulator: RunningSimulator) -> int:
    return int((await counters(simulator))["submissions"])


async def key_of(service: Service) -> Any:
    """What is kept of the upstream's key, from its first failure on."""
    (key,) = await eventually(lambda: service.rows("SELECT * FROM upstream_keys"))
    return key


def has_failed(times: int, key: Any) -> bool:
    return bool(key.failure_count == times)


async def open_breaker(service: Service, simulator: RunningSimulator) -> None:
    """Have as many submissions fail as it takes."""
    await tell(simulator, "faults", server_error=1)
    for _ in range(breaker.FAILURES_TO_OPEN):
        await service.caller.accepted(FLUX)
    await eventually(lambda: key_of(service), lambda key: key.must_probe)


async def test_after_failures_in_a_row_submissions_are_answered_at_once_and_nothing_is_sent(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True, max_concurrent_jobs=100)
    service = await serve(simulator, loops=False, max_in_flight=100)
    service.ctx.clock = FrozenClock()
    await open_breaker(service, simulator)
    await service.rows("UPDATE upstream_keys SET held_until = now() + interval '1 hour' RETURNING 1")
    sent = await submissions(simulator)

    for _ in range(10):
        await service.caller.accepted(FLUX)

    assert await dispatch.run_once(service.ctx) == 0
    assert await submissions(simulator) == sent
    answer = await service.caller.http.get("/readyz")
    assert any("the upstream is in trouble" in note for note in answer.json()["degraded"])


async def test_a_troubled_upstream_is_probed_with_one_request_ever_more_seldom(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True, max_concurrent_jobs=100)
    service = await serve(simulator, loops=False, max_in_flight=100)
    service.ctx.clock = clock = FrozenClock()
    await open_breaker(service, simulator)
    for _ in range(10):
        await service.caller.accepted(FLUX, Prefer="respond-async")
    holds: list[float] = []

    for _ in range(8):
        clock.advance(120)
        assert sum(await asyncio.gather(*(dispatch.run_once(service.ctx) for _ in range(5)))) == 1
        key = await eventually(lambda: key_of(service), partial(has_failed, len(holds) + 2))
        holds.append((key.held_until - service.ctx.now()).total_seconds())

    assert holds[0] < 5 < holds[-1] <= breaker.LONGEST_HOLD_SECONDS * 1.2
    await tell(simulator, "faults", server_error=0)
    clock.advance(120)
    assert await dispatch.run_once(service.ctx) == 1
    await eventually(lambda: key_of(service), lambda key: not key.must_probe and key.failure_count == 0)
    clock.advance(120)
    assert await dispatch.run_once(service.ctx) == 14, "all the others at once"
    assert (await counters(simulator))["accepted"] == 15


async def test_a_probe_whose_process_died_is_followed_by_another(serve: Serve, simulate: Simulate) -> None:
    """The one that was claimed to go first may never be heard of again: the hold ends with its lease."""
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    service.ctx.clock = clock = FrozenClock()
    await open_breaker(service, simulator)
    await tell(simulator, "faults", server_error=0)
    clock.advance(120)
    async with service.ctx.db.transaction() as tx:
        assert len(await claim_jobs(service.ctx, tx)) == 1

    assert await dispatch.run_once(service.ctx) == 0
    clock.advance(service.ctx.settings.lease_seconds + 1)

    assert await dispatch.run_once(service.ctx) == 1


async def test_everything_accepted_while_the_upstream_was_down_completes_when_it_is_back_without_a_herd(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(max_concurrent_jobs=5, generate_seconds=0.05)
    one, other = [await serve(simulator, sweep_seconds=0.2, max_in_flight=5) for _ in range(2)]
    await tell(simulator, "faults", down=1, down_by="cut")

    jobs = await asyncio.gather(*(service.caller.accepted(FLUX) for _ in range(10) for service in (one, other)))

    async def probed() -> Any:
        """Once the breaker is open: how many failures it counts, and how many attempts there were at all."""
        tried = "SELECT count(*) FROM steps WHERE kind = 'dispatch'"
        (seen,) = await eventually(
            lambda: one.rows(f"SELECT failure_count, ({tried}) AS tried FROM upstream_keys WHERE must_probe")
        )
        return seen

    opened = await probed()
    seen = await eventually(probed, lambda seen: seen.failure_count >= opened.failure_count + 2)
    # Five may have been under way when it opened, and what came of the last probe is counted after its step.
    assert seen.tried - opened.tried <= seen.failure_count - opened.failure_count + 5 + 1
    await tell(simulator, "faults", down=0)
    await eventually(
        lambda: one.rows("SELECT count(*) AS n FROM jobs WHERE status = 'COMPLETED'"),
        lambda rows: rows[0].n == len(jobs),
        seconds=240,
    )

    seen = await counters(simulator)
    assert seen["accepted"] == len(jobs)
    assert seen["max_in_flight_seen"] <= 5


async def test_a_probe_that_meets_a_429_waits_as_asked_and_no_longer(serve: Serve, simulate: Simulate) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    service.ctx.clock = clock = FrozenClock()
    await open_breaker(service, simulator)
    await tell(simulator, "faults", server_error=0, next=["rate_limited"], retry_after_seconds=3)
    clock.advance(60)
    assert await dispatch.run_once(service.ctx) == 1
    await eventually(lambda: key_of(service), lambda key: not key.must_probe)

    clock.advance(4)

    assert await dispatch.run_once(service.ctx) == breaker.FAILURES_TO_OPEN


async def test_failures_that_are_not_in_a_row_hold_nothing(serve: Serve, simulate: Simulate) -> None:
    """An upstream that fails now and then is not down, and jobs under way when a key is held say nothing new."""
    simulator = simulate(hold=True, max_concurrent_jobs=100)
    service = await serve(simulator, loops=False, max_in_flight=100)
    await tell(simulator, "faults", next=(["accept_then_error"] * (breaker.FAILURES_TO_OPEN - 1) + ["none"]) * 4)

    for _ in range(4 * breaker.FAILURES_TO_OPEN):
        await service.caller.accepted(FLUX)

    assert await service.rows("SELECT 1 FROM upstream_keys WHERE must_probe") == []
    assert await submissions(simulator) == 4 * breaker.FAILURES_TO_OPEN


async def test_a_hold_of_one_key_holds_no_other(serve: Serve, simulate: Simulate) -> None:
    """A key that is refused keeps its own jobs back; those of unknown fate under a key that works are settled."""
    simulator = simulate(hold=True, api_keys=("afk_old_key_for_tests",))
    old = await serve(simulator, loops=False, apiframe_api_key="afk_old_key_for_tests")
    await tell(simulator, "faults", next=["accept_then_cut"])
    job_id = await old.caller.accepted(FLUX)
    new = await serve(
        simulator,
        loops=False,
        apiframe_api_key="afk_unknown_key_for_tests",
        apiframe_previous_api_keys=("afk_old_key_for_tests",),
    )
    new.ctx.clock = clock = FrozenClock()
    waiting = await new.caller.accepted(FLUX)
    await eventually(
        lambda: new.rows("SELECT * FROM upstream_keys WHERE must_probe"),
        lambda keys: any("refused" in key.hold_reason for key in keys),
    )

    clock.advance(30)
    assert await dispatch.run_once(new.ctx) == 1

    assert (await new.job(job_id)).upstream_id is not None
    assert (await new.job(waiting)).ambiguous_since is None


async def test_a_429_of_the_cap_lowers_it_for_a_while(serve: Serve, simulate: Simulate) -> None:
    simulator = simulate(hold=True, max_concurrent_jobs=2)
    service = await serve(simulator, loops=False, max_in_flight=6)
    service.ctx.clock = clock = FrozenClock()
    for _ in range(6):
        await service.caller.accepted(FLUX, Prefer="respond-async")
    assert await dispatch.run_once(service.ctx) == 6
    await settled(service)  # each of the four that were refused says it again, and holds it for as long from then
    (account,) = await service.rows("SELECT cap_lowered_to FROM upstream_accounts")
    assert account.cap_lowered_to == 2

    clock.advance(breaker.CAP_LOWERED_SECONDS - 10)
    assert await dispatch.run_once(service.ctx) == 0
    clock.advance(20)
    assert await dispatch.run_once(service.ctx) == 4


async def test_what_the_upstream_asks_for_in_retry_after_is_heeded_by_all_jobs(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    service.ctx.clock = clock = FrozenClock()
    await tell(simulator, "faults", next=["rate_limited"], retry_after_seconds=40)
    await service.caller.accepted(FLUX)
    await eventually(lambda: service.rows("SELECT 1 FROM upstream_keys WHERE held_until IS NOT NULL"))
    await service.caller.accepted(FLUX)

    clock.advance(35)
    assert await dispatch.run_once(service.ctx) == 0
    assert await submissions(simulator) == 1
    clock.advance(10)
    assert await dispatch.run_once(service.ctx) == 2


async def test_a_request_limit_holds_over_processes_in_every_minute(serve: Serve, simulate: Simulate) -> None:
    simulator = simulate(hold=True, max_concurrent_jobs=1000)
    services = [await serve(simulator, loops=False, max_in_flight=1000, requests_per_minute=60) for _ in range(2)]
    clock = FrozenClock()
    for service in services:
        service.ctx.clock = clock
    for _ in range(80):
        await services[0].caller.accepted(FLUX, Prefer="respond-async")
    sent = []

    for _ in range(90):
        sent.append(sum(await asyncio.gather(*(dispatch.run_once(service.ctx) for service in services))))
        clock.advance(1)

    assert max(sum(sent[second : second + 60]) for second in range(30)) <= 60
    assert sum(sent) == 80, "and it is used"
