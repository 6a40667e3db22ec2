"""Trying a subscription out, looking into its deliveries, and having them made again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from app.deliveries import deliver, replay
from app.lanes import AHEAD, PLACES
from app.simulator.server import RunningSimulator
from tests.deliveries.conftest import LATER, Subscribe
from tests.deliveries.rows import multiply
from tests.harness import Caller, FrozenClock, Service, refused
from tests.receivers import Receiver


async def test_a_test_sends_a_signed_event_now_and_says_what_came_of_it(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    created = await subscribe(receiver, types=["job.completed"])

    tried = (await subscriber.http.post(f"/v1/subscriptions/{created['id']}/test")).json()

    (received,) = receiver.received
    assert received.event["type"] == "subscription.test"
    assert received.id == tried["eventId"]
    assert "webhook-signature" in received.headers
    assert (tried["delivered"], tried["status"], tried["error"]) == (True, 200, None)
    assert (tried["address"], tried["responseBody"]) == ("127.0.0.1", "answer 200")
    assert 0 < tried["seconds"] < 15
    shown = (await subscriber.http.get(f"/v1/deliveries/{tried['deliveryId']}")).json()
    assert (shown["status"], len(shown["attempts"])) == ("delivered", 1)
    assert quiet.ctx.lanes[False].left() == AHEAD * PLACES[False]


async def test_a_test_that_fails_says_why_and_is_not_tried_again(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    created = await subscribe(receiver)
    receiver.status = 418

    tried = (await subscriber.http.post(f"/v1/subscriptions/{created['id']}/test")).json()

    assert (tried["delivered"], tried["status"], tried["responseBody"]) == (False, 418, "answer 418")
    assert await deliver.run_once(quiet.ctx) == 0
    shown = (await subscriber.http.get(f"/v1/deliveries/{tried['deliveryId']}")).json()
    assert (shown["status"], shown["nextAttemptAt"]) == ("dropped", None)


async def test_the_test_takes_the_same_guard_as_every_delivery(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator], receiver: Receiver
) -> None:
    simulator = simulate(hold=True)
    lenient = await serve(simulator, loops=False)
    strict = await serve(simulator, loops=False, allowed_targets="")
    subscriber = await lenient.new_caller("tests", ("subscribe",))
    created = (await subscriber.http.post("/v1/subscriptions", json={"url": receiver.url})).json()

    path = f"{strict.url}/v1/subscriptions/{created['id']}/test"
    tried = (await subscriber.http.post(path)).json()

    assert (tried["delivered"], tried["status"], tried["address"]) == (False, None, None)
    assert "loopback" in tried["error"]
    assert receiver.received == []


async def test_a_delivery_is_made_again_on_request_with_the_same_id(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    created = await subscribe(receiver)
    await quiet.caller.accepted(**LATER)
    await deliver.run_once(quiet.ctx)
    path = f"/v1/subscriptions/{created['id']}/deliveries"
    (listed,) = (await subscriber.http.get(path)).json()["deliveries"]

    again = await subscriber.http.post(f"/v1/deliveries/{listed['id']}/redeliver")
    under_way = await subscriber.http.post(f"/v1/deliveries/{listed['id']}/redeliver")
    await deliver.run_once(quiet.ctx)

    assert (again.status_code, again.json()["status"]) == (202, "pending")
    refused(under_way, 409)
    assert len({received.id for received in receiver.received}) == 1
    assert len(receiver.received) == 2
    shown = (await subscriber.http.get(f"/v1/deliveries/{listed['id']}")).json()
    assert [attempt["status"] for attempt in shown["attempts"]] == [200, 200]


async def test_deliveries_are_listed_by_the_page_and_by_their_status(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    created = await subscribe(receiver)
    for _ in range(5):
        await quiet.caller.accepted(**LATER)
    await deliver.run_once(quiet.ctx)
    await quiet.caller.accepted(**LATER)
    path = f"/v1/subscriptions/{created['id']}/deliveries"

    page = (await subscriber.http.get(path, params={"limit": "4"})).json()
    pages = [[each["id"] for each in page["deliveries"]]]
    while page["hasMore"]:
        page = (await subscriber.http.get(path, params={"limit": "4", "cursor": page["nextCursor"]})).json()
        pages.append([each["id"] for each in page["deliveries"]])

    assert [len(page) for page in pages] == [4, 2]
    assert len({each for page in pages for each in page}) == 6
    pending = (await subscriber.http.get(path, params={"status": "pending"})).json()["deliveries"]
    assert [each["id"] for each in pending] == pages[0][:1]
    for wrong in ({"limit": "0"}, {"status": "lost"}, {"cursor": "x"}):
        refused(await subscriber.http.get(path, params=wrong), 400)


async def test_a_time_is_replayed_in_parts_after_it_was_counted(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    created = await subscribe(receiver)
    quiet.ctx.clock = clock = FrozenClock()
    await quiet.caller.accepted(**LATER)
    await multiply(quiet, 25)
    while await deliver.run_once(quiet.ctx):
        pass
    clock.time += timedelta(hours=1)
    since = quiet.ctx.now().isoformat()
    clock.advance(1)
    await quiet.caller.accepted(**LATER)
    await deliver.run_once(quiet.ctx)
    path = f"/v1/subscriptions/{created['id']}/replay"

    counted = await subscriber.http.post(path, json={"undeliveredOnly": False, "to": since, "dryRun": True})
    assert (counted.status_code, counted.json()) == (200, {"totalCount": 25, "hasMore": False})
    begun = await subscriber.http.post(path, json={"undeliveredOnly": False, "to": since, "perSecond": 10})
    assert (begun.status_code, begun.json()["totalCount"]) == (202, 25)
    done = []
    for _ in range(4):
        await replay.run_once(quiet.ctx)
        assert await replay.run_once(quiet.ctx) == 0, "a part was made before its second was over"
        while await deliver.run_once(quiet.ctx):
            pass
        shown = (await subscriber.http.get(f"/v1/replays/{begun.json()['id']}")).json()
        done.append((shown["status"], shown["doneCount"]))
        clock.advance(1.1)

    assert done == [("running", 10), ("running", 20), ("done", 25), ("done", 25)]
    assert len(receiver.received) == 26 + 25
    assert len({received.id for received in receiver.received}) == 26


async def test_a_replay_of_events_from_before_the_subscription_delivers_them(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    job_id = await quiet.caller.accepted(**LATER)
    created = await subscribe(receiver)
    quiet.ctx.clock = FrozenClock()  # a replay is of what was before it

    await subscriber.http.post(f"/v1/subscriptions/{created['id']}/replay", json={"undeliveredOnly": False})
    await replay.run_once(quiet.ctx)
    await deliver.run_once(quiet.ctx)

    assert receiver.received[0].event["data"]["id"] == job_id


async def test_a_replay_can_be_aborted(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    created = await subscribe(receiver)
    await quiet.caller.accepted(**LATER)
    await multiply(quiet, 20)
    while await deliver.run_once(quiet.ctx):
        pass
    path = f"/v1/subscriptions/{created['id']}/replay"
    quiet.ctx.clock = clock = FrozenClock()  # a replay is of what was before it
    begun = (await subscriber.http.post(path, json={"undeliveredOnly": False, "perSecond": 5})).json()
    await replay.run_once(quiet.ctx)

    aborted = (await subscriber.http.post(f"/v1/replays/{begun['id']}/abort")).json()
    clock.advance(10)

    assert (aborted["status"], aborted["doneCount"]) == ("aborted", 5)
    assert await replay.run_once(quiet.ctx) == 0
    refused(await subscriber.http.post(f"/v1/replays/{begun['id']}/abort"), 409)
    refused(await subscriber.http.get("/v1/replays/none"), 404)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("from", "yesterday"),
        ("to", 7),
        ("from", "0001-01-01T00:00:00+14:00"),
        ("to", "9999-12-31T23:59:59-14:00"),
        ("perSecond", 0),
        ("perSecond", True),
        ("dryRun", "yes"),
        ("colour", 1),
    ],
)
async def test_a_replay_that_cannot_be_read_is_a_400(
    receiver: Receiver, subscribe: Subscribe, subscriber: Caller, field: str, value: Any
) -> None:
    created = await subscribe(receiver)

    answer = await subscriber.http.post(f"/v1/subscriptions/{created['id']}/replay", json={field: value})

    assert list(refused(answer, 400)["details"]) == [field]


async def test_a_replay_that_cannot_go_on_keeps_no_other_one_from_its_turn(
    quiet: Service, receive: Callable[[], Awaitable[Receiver]], subscribe: Subscribe, subscriber: Caller
) -> None:
    await quiet.caller.accepted(**LATER)
    broken, fine = [(await subscribe(await receive()))["id"] for _ in range(2)]
    quiet.ctx.clock = clock = FrozenClock()
    for each in (broken, fine):
        await subscriber.http.post(f"/v1/subscriptions/{each}/replay", json={"undeliveredOnly": False})
        clock.advance(0.1)
    broken_pattern = "UPDATE subscriptions SET types = ARRAY['job.\\'] WHERE id = :id RETURNING 1"
    assert await quiet.rows(broken_pattern, id=broken)

    for _ in range(2):
        with suppress(DBAPIError):
            await replay.run_once(quiet.ctx)

    rows = await quiet.rows("SELECT subscription_id, status FROM replays ORDER BY created_at")
    assert [row.status for row in rows] == ["running", "done"]


async def test_a_test_event_is_not_replayed(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    created = await subscribe(receiver, types=["*"])
    await subscriber.http.post(f"/v1/subscriptions/{created['id']}/test")
    quiet.ctx.clock = FrozenClock()  # a replay is of what was before it

    asked = {"undeliveredOnly": False, "dryRun": True}
    counted = await subscriber.http.post(f"/v1/subscriptions/{created['id']}/replay", json=asked)

    assert counted.json()["totalCount"] == 0
