"""Deliveries: every event reaches whoever subscribed, signed, with one id however often it is tried."""

from __future__ import annotations

from datetime import timedelta

import pytest
from standardwebhooks import Webhook

from app.deliveries import deliver
from app.deliveries.verdict import RETRY_SECONDS
from tests.deliveries.conftest import LATER, Subscribe
from tests.deliveries.rows import deliveries, multiply
from tests.harness import Caller, FrozenClock, Service
from tests.receivers import Receiver


async def test_a_subscriber_is_told_of_a_job_as_readers_of_the_log_are(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    await subscribe(receiver)
    job_id = await quiet.caller.accepted(**LATER)

    assert await deliver.run_once(quiet.ctx) == 1

    (received,) = receiver.received
    (row,) = await quiet.rows("SELECT id, sequence, type FROM events")
    assert received.id == received.event["id"] == str(row.id)
    assert (received.event["type"], received.event["sequence"]) == ("job.queued", row.sequence)
    assert received.event["data"] == await quiet.caller.read(job_id)
    assert received.headers["content-type"] == "application/json"
    assert received.headers["user-agent"].startswith("Framehook/")
    assert await deliver.run_once(quiet.ctx) == 0


async def test_the_standard_s_own_library_verifies_what_is_delivered(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    subscription = await subscribe(receiver)
    await quiet.caller.accepted(**LATER)
    await deliver.run_once(quiet.ctx)
    rotated = await subscriber.http.post(f"/v1/subscriptions/{subscription['id']}/rotate-secret")
    await quiet.caller.accepted(**LATER)
    await deliver.run_once(quiet.ctx)

    first, second = receiver.received
    before, after = subscription["secret"], rotated.json()["secret"]
    assert before != after
    for secret, received in [(before, first), (before, second), (after, second)]:
        verified = Webhook(secret).verify(received.body, received.headers)
        assert verified == received.event
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(after).verify(first.body, first.headers)


async def test_when_the_grace_is_over_the_secret_before_signs_no_more(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    subscription = await subscribe(receiver)
    quiet.ctx.clock = clock = FrozenClock()
    path = f"/v1/subscriptions/{subscription['id']}/rotate-secret"
    await subscriber.http.post(path, json={"graceSeconds": 60})
    clock.advance(61)
    await quiet.caller.accepted(**LATER)

    await deliver.run_once(quiet.ctx)

    assert len(receiver.received[0].headers["webhook-signature"].split(" ")) == 1


async def test_a_delivery_that_fails_is_made_again_with_the_same_id_until_it_succeeds(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    await subscribe(receiver)
    quiet.ctx.clock = clock = FrozenClock()
    receiver.answers = [500, 302, 404]
    await quiet.caller.accepted(**LATER)

    for delay in (0, *RETRY_SECONDS[:3]):
        clock.advance(delay * 0.79)
        assert await deliver.run_once(quiet.ctx) == (1 if delay == 0 else 0)
        clock.advance(delay * 0.42)
        assert await deliver.run_once(quiet.ctx) == (0 if delay == 0 else 1)

    assert len(receiver.received) == 4
    assert len({received.id for received in receiver.received}) == 1
    assert len({received.body for received in receiver.received}) == 1
    (row,) = await deliveries(quiet)
    assert (row.status, row.attempt_count, row.due_at) == ("delivered", 4, None)
    attempts = await quiet.rows("SELECT number, status, next_at IS NULL AS last FROM attempts ORDER BY number")
    assert attempts == [(1, 500, False), (2, 302, False), (3, 404, False), (4, 200, True)]


async def test_a_delivery_that_never_succeeds_is_tried_for_more_than_three_days_and_then_listed_as_undelivered(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    await subscribe(receiver)
    quiet.ctx.clock = clock = FrozenClock()
    receiver.status = 503
    await quiet.caller.accepted(**LATER)
    begun = quiet.ctx.now()

    while (await deliveries(quiet))[0].status == "pending":
        clock.time += timedelta(hours=1)
        await deliver.run_once(quiet.ctx)

    assert (quiet.ctx.now() - begun).days >= 3
    assert len(receiver.received) == len(RETRY_SECONDS) + 1
    listed = (await subscriber.http.get("/v1/undelivered")).json()
    (undelivered,) = listed["deliveries"]
    assert (undelivered["status"], undelivered["reason"]) == ("undelivered", "15 attempts failed")
    assert (listed["hasMore"], listed["nextCursor"]) == (False, None)


async def test_retry_after_is_heeded_up_to_an_hour(quiet: Service, receiver: Receiver, subscribe: Subscribe) -> None:
    await subscribe(receiver)
    receiver.status, receiver.headers = 429, {"Retry-After": "1000"}
    await quiet.caller.accepted(**LATER)
    await deliver.run_once(quiet.ctx)
    (first,) = await deliveries(quiet)
    receiver.headers = {"Retry-After": "100000"}
    await quiet.caller.accepted(**LATER)
    await deliver.run_once(quiet.ctx)
    (_, second) = await deliveries(quiet)

    assert [(one.due_at - quiet.ctx.now()).total_seconds() for one in (first, second)] == [1000, 3600]


async def test_a_thousand_retries_after_an_outage_are_spread_over_a_fifth_of_the_delay_and_more(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    await subscribe(receiver)
    receiver.status = 500
    await quiet.caller.accepted(**LATER)
    await multiply(quiet, 1000)

    while await deliver.run_once(quiet.ctx):
        pass

    rows = await deliveries(quiet)
    waits = [(row.due_at - quiet.ctx.now()).total_seconds() for row in rows]
    assert len(waits) == 1000
    assert {row.attempt_count for row in rows} == {1}
    assert max(waits) - min(waits) >= 0.2 * RETRY_SECONDS[0]
    assert all(0.8 * RETRY_SECONDS[0] <= wait <= 1.2 * RETRY_SECONDS[0] for wait in waits)


async def test_a_receiver_that_was_away_gets_everything_afterwards_with_the_ids_of_the_first_attempts(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    await subscribe(receiver)
    quiet.ctx.clock = clock = FrozenClock()
    receiver.status = 503
    for _ in range(20):
        await quiet.caller.accepted(**LATER)
    for _ in range(3):
        await deliver.run_once(quiet.ctx)
        clock.advance(400)
    failed = list(receiver.received)
    receiver.received.clear()
    receiver.status = 200

    while await deliver.run_once(quiet.ctx):
        pass

    events = await quiet.rows("SELECT id FROM events")
    assert {received.id for received in receiver.received} == {str(row.id) for row in events}
    assert {received.id for received in failed} == {received.id for received in receiver.received}
    assert len(receiver.received) == len(events) == 20
    assert {row.status for row in await deliveries(quiet)} == {"delivered"}
