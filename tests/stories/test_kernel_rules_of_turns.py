"""The kernel's rules about who is sent when: 4 (slots) and 7 (leases), as walks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest

from app.apiframe.client import SUBMISSIONS_AT_ONCE
from app.clock import SettableClock
from app.jobs import attempts, dispatch, upstream
from app.jobs.breaker import CAP_LOWERED_SECONDS
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Service, books, eventually, tell
from tests.locks import CLAIMS, blocked, stopped_at
from tests.stories.deadlines import end, noting_deadlines
from tests.wires import UpstreamWire

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]

LATER = {"Prefer": "respond-async"}


def settable(service: Service) -> SettableClock:
    service.ctx.clock = clock = SettableClock()
    return clock


# 4. Slots.


@pytest.mark.parametrize("rival", ["inline", "background"])
async def test_kernel_rule_4_claims_of_two_processes_at_once_do_not_exceed_the_cap(
    serve: Serve, simulate: Simulate, rival: str
) -> None:
    simulator = simulate(hold=True, enforce_cap=False)
    one, other = [await serve(simulator, loops=False, max_in_flight=2) for _ in range(2)]
    await upstream.refresh_once(one.ctx)
    crowd, lonely = await one.new_caller("crowd"), await other.new_caller("lonely")
    for _ in range(2):
        await crowd.accepted(FLUX, **LATER)

    async with stopped_at(one, CLAIMS):
        claiming = asyncio.create_task(dispatch.run_once(one.ctx))
        await blocked(one, 1)
        # The first claim has counted and is not committed. This one's turn would be next: its team has nothing running.
        late: asyncio.Task[Any]
        if rival == "inline":
            late = asyncio.create_task(lonely.accepted(FLUX))
        else:
            await lonely.accepted(FLUX, **LATER)
            late = asyncio.create_task(dispatch.run_once(other.ctx))
        await blocked(one, 2)
    await asyncio.gather(claiming, late)

    counters = (await books(simulator))["counters"]
    assert (counters["accepted"], counters["max_in_flight_seen"]) == (2, 2)
    assert len(await one.rows("SELECT 1 FROM jobs WHERE ambiguous_since IS NULL")) == 1


async def test_kernel_rule_4_a_job_of_unknown_fate_holds_its_slot(serve: Serve, simulate: Simulate) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False, max_in_flight=1)
    await tell(simulator, "faults", accept_then_cut=1)
    await service.caller.accepted(FLUX)
    waiting = await service.caller.accepted(FLUX, **LATER)

    await dispatch.run_once(service.ctx)

    assert (await service.job(waiting)).ambiguous_since is None
    assert (await books(simulator))["counters"]["accepted"] == 1


async def test_kernel_rule_4_a_submission_whose_caller_waits_does_not_overtake_the_queue(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False, max_in_flight=1)
    first = await service.caller.accepted(FLUX, **LATER)

    late = await service.caller.accepted(FLUX)

    assert (await service.job(late)).ambiguous_since is None
    assert await dispatch.run_once(service.ctx) == 1
    assert (await service.job(first)).upstream_id is not None


async def test_kernel_rule_4_a_free_slot_goes_to_the_team_least_served_then_by_priority_then_by_age(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True, max_concurrent_jobs=1)
    service = await serve(simulator, loops=False)
    await upstream.refresh_once(service.ctx)
    served, fresh = await service.new_caller("served"), await service.new_caller("fresh")
    sent = [await served.accepted(FLUX, **LATER)]
    assert await dispatch.run_once(service.ctx) == 1
    urgent = await served.accepted(FLUX | {"priority": 9}, **LATER)
    oldest = await fresh.accepted(FLUX, **LATER)
    newest = await fresh.accepted(FLUX, **LATER)
    preferred = await fresh.accepted(FLUX | {"priority": 5}, **LATER)

    for cap in (2, 3, 4, 5):
        await tell(simulator, "config", max_concurrent_jobs=cap)
        await upstream.refresh_once(service.ctx)
        assert await dispatch.run_once(service.ctx) == 1
        rows = await service.rows("SELECT id FROM jobs WHERE upstream_id IS NOT NULL")
        sent += [str(row.id) for row in rows if str(row.id) not in sent]

    assert sent[1:] == [preferred, urgent, oldest, newest]


async def test_kernel_rule_4_a_refusal_for_too_many_jobs_lowers_the_cap_for_a_while(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True, max_concurrent_jobs=2)
    service = await serve(simulator, loops=False, max_in_flight=5)
    clock = settable(service)
    for expected in (2, 1):
        for _ in range(expected):
            await service.caller.accepted(FLUX, **LATER)
        assert await dispatch.run_once(service.ctx) == expected
    await eventually(
        lambda: service.rows("SELECT 1 FROM upstream_accounts WHERE cap_lowered_to = 2"), lambda rows: len(rows) == 1
    )
    await service.caller.accepted(FLUX, **LATER)

    clock.advance(CAP_LOWERED_SECONDS / 2)
    assert await dispatch.run_once(service.ctx) == 0
    clock.advance(CAP_LOWERED_SECONDS)
    assert await dispatch.run_once(service.ctx) == 2


# 7. Leases.


@pytest.mark.parametrize("outcome", ["no_credits", "rate_limited", "server_error"])
async def test_kernel_rule_7_a_late_outcome_of_a_lease_that_ended_changes_nothing(
    serve: Serve, simulate: Simulate, outcome: str
) -> None:
    simulator = simulate(hold=True)
    wire = UpstreamWire(simulator)
    async with wire.open() as url:
        settings = {"loops": False, "apiframe_base_url": url, "upstream_timeout_seconds": 60}
        late, current = [await serve(simulator, **settings) for _ in range(2)]
        job_id = await late.caller.accepted(FLUX, **LATER)
        await tell(simulator, "faults", next=[outcome, "none"])
        wire.hold = True
        first = asyncio.create_task(dispatch.run_once(late.ctx))
        await eventually(wire.held_count, lambda count: count == 1)
        settable(current).advance(current.ctx.settings.lease_seconds + 1)
        second = asyncio.create_task(dispatch.run_once(current.ctx))
        await eventually(wire.held_count, lambda count: count == 2)
        leased = await late.job(job_id)

        wire.held[0].set()
        assert await first == 1
        assert await late.job(job_id) == leased
        wire.held[1].set()
        assert await second == 1

    job = await late.job(job_id)
    assert (job.status, job.lease_token, job.upstream_id is not None) == ("QUEUED", None, True)


async def test_kernel_rule_7_an_attempt_is_given_up_more_than_five_seconds_before_its_lease_ends(
    serve: Serve, simulate: Simulate
) -> None:
    """Also where the upstream sends a byte now and then: the deadline is one for the whole call."""
    simulator = simulate(hold=True)
    wire = UpstreamWire(simulator)
    async with wire.open() as url:
        service = await serve(
            simulator, loops=False, apiframe_base_url=url, upstream_timeout_seconds=2, webhook_field="webhook_url"
        )
        job_id = await service.caller.accepted(FLUX, **LATER)
        wire.drip_seconds = 0.05
        assert await dispatch.run_once(service.ctx) == 1

    recorded = await service.job(job_id)
    assert (recorded.upstream_id, recorded.lease_token) == (None, None)
    (step,) = await service.rows("SELECT data FROM steps WHERE kind = 'dispatch'")
    assert step.data["said"] == "the upstream did not answer within 2 s"
    assert service.ctx.settings.lease_seconds - service.ctx.settings.upstream_timeout_seconds > 5


async def test_kernel_rule_7_the_question_whose_fault_a_403_is_ends_with_its_attempt(
    serve: Serve, simulate: Simulate
) -> None:
    """The upstream forbids, and then does not say whether it forbids the key as such."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    answered_at: list[float] = []

    async def forbid(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"post"):
                asked.set()
                await reader.read()  # until the other side has enough
                return
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
            answered_at.append(loop.time())
            writer.write(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()

    async with await asyncio.start_server(forbid, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        service = await serve(
            simulate(), loops=False, apiframe_base_url=url, upstream_timeout_seconds=60, webhook_field="webhook_url"
        )
        job_id = await service.caller.accepted(FLUX, Prefer="respond-async")

        with noting_deadlines(attempts, "timeout_at") as deadlines:
            running = asyncio.create_task(dispatch.run_once(service.ctx))
            await asked.wait()
            (ends_at,) = [deadline.when() for deadline in deadlines]
            end(deadlines[0])
            assert await running == 1

        assert ends_at is not None
        assert ends_at < answered_at[0] + 60, "that of the attempt, which began before"
        assert (await service.job(job_id)).lease_token is None


async def test_kernel_rule_7_no_more_is_claimed_than_is_sent_at_once(serve: Serve, simulate: Simulate) -> None:
    """No claim waits for another one's answer while its lease runs out."""
    simulator = simulate(hold=True, max_concurrent_jobs=100)
    service = await serve(simulator, loops=False, max_in_flight=100, upstream_timeout_seconds=60)
    await tell(simulator, "faults", accept_then_hang=1)
    await asyncio.gather(*(service.caller.accepted(FLUX, **LATER) for _ in range(SUBMISSIONS_AT_ONCE + 3)))

    running = asyncio.create_task(dispatch.run_once(service.ctx))

    await eventually(lambda: books(simulator), lambda seen: seen["counters"]["hanging_now"] == SUBMISSIONS_AT_ONCE)
    leased = await service.rows("SELECT 1 FROM jobs WHERE lease_token IS NOT NULL")
    assert len(leased) == SUBMISSIONS_AT_ONCE
    assert await dispatch.run_once(service.ctx) == 0
    await tell(simulator, "release")
    assert await running == SUBMISSIONS_AT_ONCE
