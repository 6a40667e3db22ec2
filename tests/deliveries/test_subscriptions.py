"""Subscribing: what may be asked for, what is shown again and what is not, and who may do what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from app.deliveries import deliver
from app.deliveries.subscriptions import MOST_SUBSCRIPTIONS
from tests.deliveries.conftest import LATER, Subscribe
from tests.harness import FLUX, Caller, Service, refused
from tests.receivers import Receiver

Receive = Callable[[], Awaitable[Receiver]]

URL = "https://203.0.113.1.example/hook"


async def test_a_subscription_is_shown_as_it_was_made_but_for_its_secrets(
    receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    fields = {
        "description": "orders",
        "types": ["job.completed", "subscription.*"],
        "operation": "images/generate",
        "model": "flux-1.1-pro-ultra",
        "metadata": {"order": 7, "paid": True},
        "headers": {"Authorization": "Bearer a-secret-of-theirs"},
        "rateLimit": 120,
    }
    created = await subscribe(receiver, **fields)
    shown = (await subscriber.http.get(f"/v1/subscriptions/{created['id']}")).json()
    listed = (await subscriber.http.get("/v1/subscriptions")).json()["subscriptions"]

    assert created.pop("secret").startswith("whsec_")
    assert created == shown == listed[0]
    assert {name: shown[name] for name in fields} == fields | {"headers": {"Authorization": "***"}}
    assert (shown["enabled"], shown["team"], shown["failureCount"]) == (True, "tests", 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", None),
        ("url", "ftp://files.example/x"),
        ("url", "https://user:password@example.com/"),
        ("url", "http://10.0.0.1/"),
        ("url", "http://2130706433/"),
        ("url", "http://[::ffff:10.0.0.1]/"),
        ("types", []),
        ("types", ["job.unheard_of"]),
        ("types", "job.*"),
        ("types", ["jo*"]),
        ("description", 7),
        ("description", "x" * 1001),
        ("description", "a\0b"),
        ("operation", 7),
        ("model", ["a"]),
        ("metadata", {"a": {"b": 1}}),
        ("metadata", [1]),
        ("headers", {"Host": "elsewhere.example"}),
        ("headers", {"webhook-id": "mine"}),
        ("headers", {"X-Fine": "a\r\nb"}),
        ("headers", {"X-Fine": 7}),
        ("rateLimit", 0),
        ("rateLimit", True),
        ("allTeams", "yes"),
        ("enabled", 1),
        ("colour", "red"),
    ],
)
async def test_a_field_that_is_wrong_is_named_and_changes_nothing(
    quiet: Service, subscriber: Caller, field: str, value: Any
) -> None:
    answer = await subscriber.http.post("/v1/subscriptions", json={"url": URL, field: value})

    assert list(refused(answer, 400)["details"]) == [field]
    assert await quiet.rows("SELECT 1 FROM subscriptions") == []


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"{", b'"text"', b"\xff", b"[" * 60_000])
async def test_a_body_that_is_no_subscription_is_a_400(subscriber: Caller, body: bytes) -> None:
    refused(await subscriber.http.post("/v1/subscriptions", content=body), 400)


async def test_a_host_that_leads_to_a_private_address_is_refused_when_it_is_subscribed_and_when_it_is_changed(
    serve: Callable[..., Any], simulate: Callable[..., Any], receiver: Receiver
) -> None:
    strict = await serve(simulate(hold=True), loops=False, allowed_targets="hooks.internal")
    subscriber = await strict.new_caller("tests", ("subscribe",))
    created = await subscriber.http.post("/v1/subscriptions", json={"url": "http://hooks.internal/"})
    assert created.status_code == 201, created.text

    for url in (receiver.url, receiver.url.replace("127.0.0.1", "localhost")):
        refused(await subscriber.http.post("/v1/subscriptions", json={"url": url}), 400)
        path = f"/v1/subscriptions/{created.json()['id']}"
        refused(await subscriber.http.patch(path, json={"url": url}), 400)


async def test_a_subscription_tells_of_what_it_was_narrowed_down_to(
    quiet: Service, receive: Receive, subscribe: Subscribe
) -> None:
    wanted: dict[str, dict[str, Any]] = {
        "everything": {},
        "model": {"model": FLUX["model"]},
        "other model": {"model": "another"},
        "operation": {"operation": "images/generate"},
        "metadata": {"metadata": {"order": 7}},
        "other metadata": {"metadata": {"order": 8}},
        "metadata of another type": {"metadata": {"order": True}},
        "other type": {"types": ["job.completed"]},
    }
    receivers = {name: await receive() for name in wanted}
    for name, fields in wanted.items():
        await subscribe(receivers[name], **fields)
    await quiet.caller.accepted(FLUX | {"metadata": {"order": 7, "more": "x"}}, **LATER)

    await deliver.run_once(quiet.ctx)

    told = {name for name, receiver in receivers.items() if receiver.received}
    assert told == {"everything", "model", "operation", "metadata"}


async def test_a_team_is_told_of_its_own_jobs_and_an_admin_of_all_teams_on_request(
    quiet: Service, receive: Receive, subscribe: Subscribe
) -> None:
    mine, theirs, everybody_s = [await receive() for _ in range(3)]
    stranger = await quiet.new_caller("others", ("subscribe", "submit", "read"))
    admin = await quiet.new_caller("operators", ("admin",))
    await subscribe(mine)
    await subscribe(theirs, by=stranger)
    await subscribe(everybody_s, by=admin, allTeams=True)
    await quiet.caller.accepted(**LATER)
    await stranger.accepted(**LATER)

    await deliver.run_once(quiet.ctx)

    assert [len(each.received) for each in (mine, theirs, everybody_s)] == [1, 1, 2]
    teams = await quiet.rows(
        "SELECT t.name, count(*) AS n FROM deliveries d JOIN teams t ON t.id = d.team_id GROUP BY t.name ORDER BY t.name"
    )
    assert teams == [("operators", 2), ("others", 1), ("tests", 1)], "a delivery is the affair of the team that is told"


async def test_only_an_admin_may_subscribe_to_all_teams_or_change_such_a_subscription(
    quiet: Service, receiver: Receiver, subscribe: Subscribe
) -> None:
    admin = await quiet.new_caller("tests", ("admin",))
    colleague = await quiet.new_caller("tests", ("subscribe",))
    refused(await colleague.http.post("/v1/subscriptions", json={"url": receiver.url, "allTeams": True}), 403)
    created = await subscribe(receiver, by=admin, allTeams=True)
    path = f"/v1/subscriptions/{created['id']}"

    refused(await colleague.http.patch(path, json={"url": receiver.url}), 403)
    refused(await colleague.http.post(f"{path}/rotate-secret"), 403)
    refused(await colleague.http.delete(path), 403)
    assert (await admin.http.patch(path, json={"description": "all"})).json()["description"] == "all"


async def test_a_subscription_of_another_team_is_none(quiet: Service, receiver: Receiver, subscribe: Subscribe) -> None:
    created = await subscribe(receiver)
    await quiet.caller.accepted(**LATER)
    await deliver.run_once(quiet.ctx)
    (row,) = await quiet.rows("SELECT id FROM deliveries")
    stranger = await quiet.new_caller("others", ("subscribe",))
    path = f"/v1/subscriptions/{created['id']}"

    asked = [("GET", path), ("PATCH", path), ("DELETE", path), ("GET", f"{path}/deliveries")]
    asked += [("POST", f"{path}/{action}") for action in ("enable", "rotate-secret", "test", "replay")]
    asked += [("GET", f"/v1/deliveries/{row.id}"), ("POST", f"/v1/deliveries/{row.id}/redeliver")]
    asked += [
        ("GET", f"/v1/subscriptions/{uuid4()}"),
        ("GET", "/v1/subscriptions/none"),
        ("GET", "/v1/deliveries/none"),
    ]
    for method, where in asked:
        refused(await stranger.http.request(method, where, json={} if method != "GET" else None), 404)
    assert (await stranger.http.get("/v1/subscriptions")).json() == {"subscriptions": []}
    assert (await stranger.http.get("/v1/undelivered")).json()["deliveries"] == []
    operator = await quiet.new_caller("operators", ("ops",))
    assert (await operator.http.get(path)).json()["id"] == created["id"]


async def test_a_key_without_the_scope_may_not_subscribe(quiet: Service) -> None:
    refused(await quiet.caller.http.post("/v1/subscriptions", json={"url": URL}), 403)
    refused(await quiet.caller.http.get("/v1/subscriptions"), 403)


async def test_a_deleted_subscription_is_told_nothing_more(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    created = await subscribe(receiver)
    await quiet.caller.accepted(**LATER)
    assert (await subscriber.http.delete(f"/v1/subscriptions/{created['id']}")).status_code == 204
    await quiet.caller.accepted(**LATER)

    await deliver.run_once(quiet.ctx)

    assert receiver.received == []
    refused(await subscriber.http.get(f"/v1/subscriptions/{created['id']}"), 404)
    (undelivered,) = (await subscriber.http.get("/v1/undelivered")).json()["deliveries"]
    assert undelivered["reason"] == "the subscription was deleted"
    assert await quiet.rows("SELECT secret, headers FROM subscriptions") == [("", {})]


async def test_an_operator_sees_and_enables_the_subscriptions_of_all_teams_and_changes_none(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    created = await subscribe(receiver)
    path = f"/v1/subscriptions/{created['id']}"
    operator = await quiet.new_caller("operators", ("ops",))
    neighbour = await quiet.new_caller("operators", ("ops", "subscribe"))
    admin = await quiet.new_caller("operators", ("admin",))

    for method, where in [("PATCH", path), ("DELETE", path), ("POST", f"{path}/rotate-secret")]:
        refused(await operator.http.request(method, where, json={}), 403)
        refused(await neighbour.http.request(method, where, json={}), 404)
    refused(await operator.http.post("/v1/subscriptions", json={"url": receiver.url}), 403)
    await subscriber.http.patch(path, json={"enabled": False})
    assert (await operator.http.post(f"{path}/enable")).json()["enabled"] is True
    assert (await operator.http.post(f"{path}/test")).json()["delivered"] is True
    assert (await admin.http.patch(path, json={"description": "theirs"})).json()["description"] == "theirs"


async def test_a_deleted_subscription_is_not_called_by_a_redelivery_either(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    created = await subscribe(receiver)
    tried = (await subscriber.http.post(f"/v1/subscriptions/{created['id']}/test")).json()
    await subscriber.http.delete(f"/v1/subscriptions/{created['id']}")

    refused(await subscriber.http.post(f"/v1/deliveries/{tried['deliveryId']}/redeliver"), 409)
    await deliver.run_once(quiet.ctx)

    assert len(receiver.received) == 1


async def test_a_rotation_names_a_field_that_it_does_not_know(
    receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    created = await subscribe(receiver)

    for body, field in [({"grace": 1}, "grace"), ({"graceSeconds": -1}, "graceSeconds")]:
        answer = await subscriber.http.post(f"/v1/subscriptions/{created['id']}/rotate-secret", json=body)
        assert list(refused(answer, 400)["details"]) == [field]


async def test_a_change_takes_effect_for_the_next_event(
    quiet: Service, receive: Receive, subscribe: Subscribe, subscriber: Caller
) -> None:
    before, after = await receive(), await receive()
    created = await subscribe(before, headers={"X-One": "1"})
    path = f"/v1/subscriptions/{created['id']}"
    await quiet.caller.accepted(**LATER)
    await deliver.run_once(quiet.ctx)
    changed = await subscriber.http.patch(path, json={"url": after.url, "headers": {"X-Two": "2"}})
    await quiet.caller.accepted(**LATER)
    await deliver.run_once(quiet.ctx)

    assert changed.status_code == 200
    assert (changed.json()["url"], changed.json()["types"]) == (after.url, ["job.*"])
    assert before.received[0].headers["x-one"] == "1"
    assert after.received[0].headers["x-two"] == "2"
    assert "x-one" not in after.received[0].headers


async def test_a_team_has_an_end_to_its_subscriptions(quiet: Service, receiver: Receiver, subscribe: Subscribe) -> None:
    await subscribe(receiver)
    await quiet.rows(
        "INSERT INTO subscriptions (id, team_id, created_at, updated_at, url, types, secret) SELECT gen_random_uuid(),"
        " team_id, created_at, updated_at, url, types, secret FROM subscriptions, generate_series(2, :most) RETURNING 1",
        most=MOST_SUBSCRIPTIONS,
    )
    subscriber = await quiet.new_caller("tests", ("subscribe",))

    refused(await subscriber.http.post("/v1/subscriptions", json={"url": receiver.url}), 409)


async def test_a_secret_is_in_no_answer_but_the_one_that_makes_it(
    quiet: Service, receiver: Receiver, subscribe: Subscribe, subscriber: Caller
) -> None:
    created = await subscribe(receiver, headers={"Authorization": "Bearer theirs"})
    path = f"/v1/subscriptions/{created['id']}"
    await quiet.caller.accepted(**LATER)
    await deliver.run_once(quiet.ctx)
    (row,) = await quiet.rows("SELECT id FROM deliveries")

    answers = [
        await subscriber.http.get(path),
        await subscriber.http.get("/v1/subscriptions"),
        await subscriber.http.patch(path, json={"description": "x"}),
        await subscriber.http.post(f"{path}/enable"),
        await subscriber.http.post(f"{path}/test"),
        await subscriber.http.get(f"/v1/deliveries/{row.id}"),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert created["secret"] not in answer.text
        assert "Bearer theirs" not in answer.text
    attempt = answers[-1].json()["attempts"][0]
    assert attempt["requestHeaders"]["Authorization"] == "***"
    assert attempt["requestHeaders"]["webhook-id"] == receiver.received[0].id
