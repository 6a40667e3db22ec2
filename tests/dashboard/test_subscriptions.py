"""The pages of subscriptions: how each fares, and what helps one that does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

from tests.dashboard.operators import Operator
from tests.dashboard.troubles import Troubles, actions_of
from tests.harness import Service, eventually

LIST = "/ops/subscriptions"


async def test_subscriptions_are_shown_with_how_they_fare_and_never_with_their_secrets(
    service: Service, operator: Operator, troubles: Troubles
) -> None:
    html = await operator.read(LIST)
    assert "Order service" in html
    assert "failed attempt" in html
    assert f"status=undelivered&amp;subscription={troubles.fails}" in html
    failing = await operator.read(f"{LIST}?state=failing&team=design")
    assert troubles.fails in failing
    assert troubles.works not in failing
    assert "No subscription that these filters find" in await operator.read(f"{LIST}?state=disabled")
    pages = [await operator.read(f"{LIST}/{each}") for each in (troubles.works, troubles.fails)]
    for part in ("job.*", "shop de", "its own", "Send a test event", "HTTP 200"):
        assert part in pages[0], part
    for part in ("X-Token", "none succeeded", "HTTP 503"):
        assert part in pages[1], part
    rows = await service.rows("SELECT secret FROM subscriptions")
    for page in (html, *pages):
        assert not [row for row in rows if row.secret in page]
        assert "hush" not in page
    for query in ("state=lost", "team=nobody", "cursor=x"):
        await operator.read(f"{LIST}?{query}", status=400)
    for unknown in (uuid4(), "nothing"):
        await operator.read(f"{LIST}/{unknown}", status=404)


async def test_lists_of_subscriptions_go_on(service: Service, operator: Operator) -> None:
    caller = await service.new_caller("design", ("subscribe",))
    for _ in range(51):
        answer = await caller.http.post("/v1/subscriptions", json={"url": "http://127.0.0.1:9/hook"})
        assert answer.status_code == 201
    first = await operator.read(LIST)
    older = first.rpartition('" rel="next"')[0].rpartition('href="')[2]
    second = await operator.read(f"{LIST}{older}")
    assert (first.count('id="subscription-'), second.count('id="subscription-')) == (50, 1)


async def test_an_admin_disables_and_an_operator_enables(
    service: Service, operator: Operator, admin: Operator, troubles: Troubles
) -> None:
    own = f"{LIST}/{troubles.works}"
    assert f"{own}/disable" not in await operator.read(own)
    assert (await operator.act(f"{own}/disable")).status_code == 403
    assert (await operator.act(f"{LIST}/{uuid4()}/disable")).status_code == 404
    assert (await admin.act(f"{own}/disable")).status_code == 303
    page = await operator.read(own)
    assert "disabled by an operator" in page
    assert f"{own}/replay" not in page
    assert (await operator.act(f"{own}/enable")).status_code == 303
    assert "Disabled since" not in await operator.read(own)
    assert await actions_of(service, "subscription.") == [
        ("subscription.changed", troubles.works, str(admin.key_id)),
        ("subscription.enabled", troubles.works, str(operator.key_id)),
    ]


async def test_what_an_operator_does_to_its_own_teams_things_is_noted_too(service: Service, operator: Operator) -> None:
    own = await service.new_caller("operators", ("subscribe",))
    made = (await own.http.post("/v1/subscriptions", json={"url": "http://127.0.0.1:9/hook"})).json()["id"]
    assert (await operator.act(f"{LIST}/{made}/disable")).status_code == 303
    assert await actions_of(service, "subscription.") == [("subscription.changed", made, str(operator.key_id))]


async def test_a_test_event_says_what_came_of_it(service: Service, operator: Operator, troubles: Troubles) -> None:
    for subscription, said in (
        (troubles.works, "was received: HTTP 200"),
        (troubles.fails, "was not received: HTTP 503"),
    ):
        answer = await operator.act(f"{LIST}/{subscription}/test")
        assert answer.headers["Location"] == f"{LIST}/{subscription}"
        assert said in await operator.read(answer.headers["Location"])
    assert [entry[:2] for entry in await actions_of(service, "subscription.")] == [
        ("subscription.tested", troubles.works),
        ("subscription.tested", troubles.fails),
    ]


@asynccontextmanager
async def replays_held(service: Service) -> AsyncIterator[None]:
    """Have replays that begin meanwhile do nothing for an hour."""
    hold = "BEGIN NEW.due_at = NEW.due_at + interval ''1 hour''; RETURN NEW; END"
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS '{hold}'")
        await tx.exec_driver_sql("CREATE TRIGGER hold BEFORE INSERT ON replays FOR EACH ROW EXECUTE FUNCTION hold()")
    yield
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("DROP FUNCTION hold CASCADE")


async def test_a_replay_is_counted_started_watched_and_ended(
    service: Service, operator: Operator, troubles: Troubles
) -> None:
    own = f"{LIST}/{troubles.works}"
    told = await service.rows("SELECT 1 FROM deliveries WHERE subscription_id = :id", id=UUID(troubles.works))
    counted = await operator.act(f"{own}/replay", what="everything", perSecond="1", dry="1")
    assert counted.headers["Location"] == f"{own}?what=everything&perSecond=1#replay"
    assert f"It would be {len(told)} deliveries" in await operator.read(f"{own}?what=everything&perSecond=1")
    assert await actions_of(service, "replay.") == []
    async with replays_held(service):
        begun = await operator.act(f"{own}/replay", what="everything", perSecond="1")
    assert begun.headers["Location"] == own
    page = await operator.read(own)
    assert f"of {len(told)}</span>" in page
    (replay,) = await service.rows("SELECT id FROM replays")
    assert (await operator.act(f"/ops/replays/{replay.id}/abort")).headers["Location"] == own
    assert "aborted" in await operator.read(own)
    assert (await operator.act(f"/ops/replays/{replay.id}/abort")).status_code == 409
    assert await actions_of(service, "replay.") == [
        ("replay.started", str(replay.id), str(operator.key_id)),
        ("replay.aborted", str(replay.id), str(operator.key_id)),
    ]
    assert f"{own}#replay" in await operator.read("/ops/audit?action=replay.")
    for wrong in ({"perSecond": "many"}, {"perSecond": "0"}, {"from": "yesterday"}):
        assert (await operator.act(f"{own}/replay", **wrong)).status_code == 400
    await operator.act(f"{LIST}/{troubles.fails}/replay")

    async def undelivered() -> str:
        (row,) = await service.rows("SELECT status FROM deliveries WHERE id = :id", id=troubles.undelivered)
        return str(row.status)

    await eventually(undelivered, lambda status: status == "pending")
