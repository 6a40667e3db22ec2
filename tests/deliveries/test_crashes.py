"""A crash at any point of a delivery: it is made, and made again with the same id where nobody knows whether it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from app.deliveries import deliver
from app.deliveries.claim import LEASE, claim
from app.deliveries.verdict import RETRY_SECONDS
from app.simulator.server import RunningSimulator
from tests.deliveries.conftest import LATER, Subscribe
from tests.deliveries.rows import attempts, deliveries
from tests.harness import FrozenClock, Service, running_service, settings_for
from tests.receivers import Received, Receiver
from tests.wires import PostgresWire


async def test_a_delivery_that_was_claimed_and_not_made_is_made_when_its_lease_is_over(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    await subscribe(receiver)
    quiet.ctx.clock = clock = FrozenClock()
    await quiet.caller.accepted(**LATER)
    assert len(await claim(quiet.ctx)) == 1  # and here the process is killed
    quiet.ctx.lanes[False].forget()

    assert await deliver.run_once(quiet.ctx) == 0
    clock.time += LEASE
    assert await deliver.run_once(quiet.ctx) == 1

    assert len(receiver.received) == 1
    (row,) = await deliveries(quiet)
    assert (row.status, row.attempt_count) == ("delivered", 1)


async def test_a_delivery_that_was_made_and_not_recorded_is_made_again_with_the_same_id(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    await subscribe(receiver)
    quiet.ctx.clock = clock = FrozenClock()
    await quiet.caller.accepted(**LATER)
    (claimed,) = await claim(quiet.ctx)
    await deliver.attempt(quiet.ctx, claimed)  # and here the process is killed
    quiet.ctx.lanes[False].forget()

    clock.time += LEASE
    await deliver.run_once(quiet.ctx)

    assert [received.id for received in receiver.received] == [str(claimed.event_id)] * 2
    assert receiver.received[0].body == receiver.received[1].body
    assert [row.status for row in await deliveries(quiet)] == ["delivered"]


async def test_an_attempt_that_is_recorded_after_its_lease_changes_nothing_that_another_has_recorded(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    await subscribe(receiver)
    quiet.ctx.clock = clock = FrozenClock()
    await quiet.caller.accepted(**LATER)
    (late,) = await claim(quiet.ctx)
    receiver.answers = [500]
    sent = await deliver.attempt(quiet.ctx, late)
    clock.time += LEASE
    await deliver.run_once(quiet.ctx)

    await quiet.ctx.batched(deliver.record, sent)

    (row,) = await deliveries(quiet)
    assert (row.status, row.due_at) == ("delivered", None)
    assert sorted(one.status for one in await attempts(quiet)) == [200, 500]
    (subscription,) = await quiet.rows("SELECT failure_count FROM subscriptions")
    assert subscription.failure_count == 0


async def test_a_record_whose_commit_was_lost_is_written_once(
    database_url: str, simulate: Callable[..., RunningSimulator], receiver: Receiver
) -> None:
    wire = PostgresWire(database_url)
    simulator = simulate(hold=True)
    async with wire.open() as url, running_service(settings_for(url, simulator, loops=False)) as service:
        service.ctx.clock = FrozenClock()
        subscriber = await service.new_caller("tests", ("subscribe",))
        await subscriber.http.post("/v1/subscriptions", json={"url": receiver.url})

        async def fail(_received: Received) -> web.StreamResponse:
            wire.cut_in_commit()  # the next one, which is the record's
            return web.Response(status=500)

        receiver.answers = [fail]
        await service.caller.accepted(**LATER)

        await deliver.run_once(service.ctx)

        assert wire.cuts == 1
        assert len(await attempts(service)) == 1
        (row,) = await service.rows("SELECT failure_count FROM subscriptions")
        assert row.failure_count == 1


async def test_work_that_was_begun_is_finished_before_a_process_ends(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator], database_url: str, receiver: Receiver
) -> None:
    simulator = simulate(hold=True)
    watching = await serve(simulator, loops=False)
    async with running_service(settings_for(database_url, simulator, loops=False)) as leaving:
        leaving.ctx.clock = FrozenClock()
        subscriber = await leaving.new_caller("tests", ("subscribe",))
        await subscriber.http.post("/v1/subscriptions", json={"url": receiver.url})
        await leaving.caller.accepted(**LATER)
        await deliver.start_once(leaving.ctx)
        await asyncio.sleep(0)

    assert [row.status for row in await deliveries(watching)] == ["delivered"]


async def test_claims_that_came_to_nothing_use_up_no_attempt(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    await subscribe(receiver)
    quiet.ctx.clock = clock = FrozenClock()
    await quiet.caller.accepted(**LATER)
    for _ in range(20):
        assert len(await claim(quiet.ctx)) == 1
        quiet.ctx.lanes[False].forget()
        clock.time += LEASE
    receiver.answers = [500]

    await deliver.run_once(quiet.ctx)

    (row,) = await deliveries(quiet)
    assert (row.status, row.attempt_count) == ("pending", 1)
    assert [one.number for one in await attempts(quiet)] == [1]


async def test_a_delivery_that_cannot_even_be_sent_is_recorded_as_a_failure_and_comes_to_an_end(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    await subscribe(receiver)
    quiet.ctx.clock = clock = FrozenClock()
    await quiet.caller.accepted(**LATER)
    assert await quiet.rows("UPDATE subscriptions SET secret = 'whsec_a' RETURNING 1")  # which nothing can sign with
    for _ in range(len(RETRY_SECONDS) + 1):
        await deliver.run_once(quiet.ctx)
        clock.advance(2 * max(RETRY_SECONDS))

    (row,) = await deliveries(quiet)
    assert (row.status, row.reason) == ("undelivered", "15 attempts failed")
    assert {one.error for one in await attempts(quiet)} == {"it could not be sent"}


async def test_a_claim_whose_lease_is_nearly_over_is_left_to_the_next_one(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    await subscribe(receiver)
    quiet.ctx.clock = clock = FrozenClock()
    await quiet.caller.accepted(**LATER)
    (claimed,) = await claim(quiet.ctx)
    clock.advance(6)

    assert await deliver.deliver(quiet.ctx, claimed) is None
    assert receiver.received == []
    clock.time += LEASE
    assert await deliver.run_once(quiet.ctx) == 1
    assert len(receiver.received) == 1
