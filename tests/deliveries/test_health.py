"""A subscription whose receiver is gone, or has failed for days, is disabled, said to be, and loses nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from app.deliveries import deliver, replay
from app.deliveries.health import DISABLE_AFTER, DISABLE_FAILURES, health_of
from app.deliveries.verdict import Verdict
from tests.deliveries.conftest import LATER, Subscribe
from tests.deliveries.rows import age, deliveries
from tests.harness import Caller, FrozenClock, Service
from tests.receivers import Receiver

DAYS = DISABLE_AFTER.total_seconds()


async def test_410_disables_at_once_and_tells_the_team_s_other_subscriptions(
    quiet: Service, receive: Callable[[], Awaitable[Receiver]], subscribe: Subscribe, subscriber: Caller
) -> None:
    gone, watching = await receive(), await receive()
    gone.status = 410
    subscription = await subscribe(gone)
    await subscribe(watching, types=["subscription.*"])
    for _ in range(2):
        await quiet.caller.accepted(**LATER)

    await deliver.run_once(quiet.ctx)
    await quiet.caller.accepted(**LATER)
    await deliver.run_once(quiet.ctx)

    assert [one.event["type"] for one in watching.received] == ["subscription.disabled"]
    told = watching.received[0].event["data"]
    assert (told["id"], told["reason"]) == (subscription["id"], "the receiver answered 410 Gone")
    shown = (await subscriber.http.get(f"/v1/subscriptions/{subscription['id']}")).json()
    assert (shown["enabled"], shown["disabledReason"]) == (False, "the receiver answered 410 Gone")
    kept = [row for row in await deliveries(quiet) if str(row.subscription_id) == subscription["id"]]
    assert [row.status for row in kept] == ["undelivered"] * 3
    assert len(gone.received) <= 2


async def test_what_is_kept_for_a_disabled_subscription_is_delivered_when_it_is_replayed(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    subscription = await subscribe(receiver)
    path = f"/v1/subscriptions/{subscription['id']}"
    await subscriber.http.patch(path, json={"enabled": False})
    for _ in range(3):
        await quiet.caller.accepted(**LATER)
    assert await deliver.run_once(quiet.ctx) == 0
    assert (await subscriber.http.post(f"{path}/replay")).status_code == 409

    assert (await subscriber.http.post(f"{path}/enable")).json()["enabled"] is True
    assert await deliver.run_once(quiet.ctx) == 0
    quiet.ctx.clock = FrozenClock()  # a replay is of what was before it
    begun = (await subscriber.http.post(f"{path}/replay")).json()
    await replay.run_once(quiet.ctx)
    await deliver.run_once(quiet.ctx)

    events = await quiet.rows("SELECT id FROM events WHERE type = 'job.queued' ORDER BY sequence")
    assert sorted(received.id for received in receiver.received) == sorted(str(row.id) for row in events)
    assert begun["totalCount"] == 3
    shown = (await subscriber.http.get(f"/v1/replays/{begun['id']}")).json()
    assert (shown["status"], shown["doneCount"]) == ("done", 3)


@pytest.mark.parametrize(
    ("failures", "days", "is_over"),
    [(DISABLE_FAILURES, 5.01, True), (DISABLE_FAILURES - 1, 6, False), (DISABLE_FAILURES + 5, 4.9, False)],
)
async def test_a_subscription_is_disabled_after_five_days_without_a_success_and_twenty_failures(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, failures: int, days: float, *, is_over: bool
) -> None:
    subscription = await subscribe(receiver)
    quiet.ctx.clock = clock = FrozenClock()
    receiver.status = 500
    for _ in range(failures - 1):
        await quiet.caller.accepted(**LATER)
    while await deliver.run_once(quiet.ctx):
        pass
    await age(quiet, days * 24 * 3600, subscription["id"])
    await quiet.caller.accepted(**LATER)
    await deliver.run_once(quiet.ctx)

    (row,) = await quiet.rows("SELECT disabled_at, disabled_reason, failure_count FROM subscriptions")
    assert row.failure_count == failures
    assert (row.disabled_at is not None) is is_over
    if is_over:
        clock.time += timedelta(minutes=1)
        while await deliver.run_once(quiet.ctx):
            pass
        assert {one.status for one in await deliveries(quiet)} == {"undelivered"}
        assert len(receiver.received) == failures


async def test_a_success_makes_a_fresh_start(quiet: Service, receiver: Receiver, subscribe: Subscribe) -> None:
    subscription = await subscribe(receiver)
    receiver.answers = [500, 500]
    quiet.ctx.clock = clock = FrozenClock()
    await quiet.caller.accepted(**LATER)
    for _ in range(3):
        await deliver.run_once(quiet.ctx)
        await age(quiet, DAYS, subscription["id"])
        clock.advance(100)

    (row,) = await quiet.rows("SELECT failure_count, failing_since, last_success_at, disabled_at FROM subscriptions")
    assert (row.failure_count, row.failing_since, row.disabled_at) == (0, None, None)
    assert row.last_success_at is not None


async def test_while_all_is_well_a_subscription_s_row_is_not_written_for_every_delivery(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    await subscribe(receiver)
    written = []
    for _ in range(3):
        await quiet.caller.accepted(**LATER)
        await deliver.run_once(quiet.ctx)
        written += await quiet.rows("SELECT CAST(xmin AS text) AS version FROM subscriptions")

    assert len(receiver.received) == 3
    assert len(set(written)) == 1
    (row,) = await quiet.rows("SELECT * FROM subscriptions")
    assert health_of(row, [Verdict("delivered")], quiet.ctx.now()) is None


async def test_what_became_due_while_a_subscription_was_being_disabled_is_kept_as_undelivered(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    """Its publisher saw the subscription enabled, and committed after everything that was due had been ended."""
    await subscribe(receiver, rateLimit=60)
    await quiet.caller.accepted(**LATER)
    assert await quiet.rows("UPDATE subscriptions SET disabled_at = now() RETURNING 1")

    await deliver.run_once(quiet.ctx)

    assert [row.status for row in await deliveries(quiet)] == ["undelivered"]
    assert receiver.received == []
