"""The pages of deliveries: what they tell at a glance, what can be found, and telling again."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.deliveries.queries import finding
from tests.dashboard.operators import Operator
from tests.dashboard.troubles import Troubles, actions_of, give_up
from tests.deliveries.rows import deliveries
from tests.harness import Service, eventually

LIST = "/ops/deliveries"


async def shown(operator: Operator, query: str = "") -> set[str]:
    """The ids of the deliveries that a page of the list holds."""
    html = await operator.read(f"{LIST}?{query}")
    return set(re.findall('id="delivery-([^"]+)"', html))


async def test_deliveries_are_found_by_everything_that_is_known_of_them(
    service: Service, operator: Operator, troubles: Troubles
) -> None:
    rows = await deliveries(service)
    job = troubles.jobs[-1]
    cases: tuple[tuple[str, Callable[[Any], bool]], ...] = (
        ("", lambda row: True),
        (f"job={job}", lambda row: str(row.job_id) == job),
        (f"subscription={troubles.fails}", lambda row: str(row.subscription_id) == troubles.fails),
        (
            f"subscription={troubles.works}&type=job.completed",
            lambda row: row.event_type == "job.completed" and str(row.subscription_id) == troubles.works,
        ),
        ("status=undelivered", lambda row: row.status == "undelivered"),
        ("status=undelivered&team=design", lambda row: row.status == "undelivered"),
        (f"status=undelivered&subscription={troubles.works}", lambda row: False),
        ("status=delivered&team=design", lambda row: row.status == "delivered"),
        ("status=pending", lambda row: row.status == "pending"),
        ("status=pending&team=tests", lambda row: False),
        ("team=design", lambda row: True),
        ("team=tests", lambda row: False),
        ("type=job.completed", lambda row: row.event_type == "job.completed"),
    )
    for query, wanted in cases:
        assert await shown(operator, query) == {str(row.id) for row in rows if wanted(row)}, query
    for query in ("status=lost", "type=job.*", "job=1", "subscription=x", "cursor=x", "team=nobody"):
        assert "<h1>Validation failed" in await operator.read(f"{LIST}?{query}", status=400), query


async def test_pages_go_on_to_the_last_delivery_and_no_further_than_the_budget_at_once(
    service: Service, operator: Operator, troubles: Troubles, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Looked at all" not in await operator.read(f"{LIST}?type=subscription.test")
    monkeypatch.setattr(finding, "BUDGET", 3)
    monkeypatch.setattr("app.dashboard.deliveries.SHOWN", 2)
    for row in (await deliveries(service))[:4]:
        await give_up(service, row.id)
    html = await operator.read(f"{LIST}?type=subscription.test")
    assert "Looked at all deliveries back to" in html
    assert 'rel="next"' in html
    for query in ("", "team=design", "type=job.completed", "status=delivered", "status=undelivered", "job=%s"):
        asked = query.replace("%s", troubles.jobs[0])
        wanted = asked.partition("=")[2]
        rows = [row for row in await deliveries(service) if wanted in _facts(row)]
        assert await read_on(operator, f"{LIST}?{asked}") == sorted((str(row.id) for row in rows), reverse=True), query


def _facts(row: Any) -> tuple[str, ...]:
    return "", "design", row.event_type, row.status, str(row.job_id)


async def read_on(operator: Operator, path: str) -> list[str]:
    """The ids of all deliveries of a list, page by page."""
    found: list[str] = []
    while path:
        html = await operator.read(path)
        found += re.findall('id="delivery-([^"]+)"', html)
        older = re.search('href="([^"]+)" rel="next"', html)
        path = f"{LIST}{unescape(older[1])}" if older else ""
    return found


async def test_a_delivery_says_at_once_whether_the_subscriber_was_told(
    service: Service, operator: Operator, troubles: Troubles
) -> None:
    rows = await deliveries(service)
    told = next(row for row in rows if row.status == "delivered" and str(row.subscription_id) == troubles.works)
    html = await operator.read(f"{LIST}/{told.id}")
    assert "<b>Told.</b> The subscriber answered 200" in html
    for part in (str(told.job_id), str(told.event_id), troubles.works, "Order service", "answer 200", "webhook-id"):
        assert part in html, part
    html = await operator.read(f"{LIST}/{troubles.undelivered}")
    assert "<b>Not told.</b>" in html
    assert "HTTP 503" in html
    assert f'action="{LIST}/{troubles.undelivered}/redeliver"' in html
    assert "X-Token" in html
    assert "hush" not in html
    callback = next(row for row in rows if row.callback_url)
    assert "The caller answered 200" in await operator.read(f"{LIST}/{callback.id}")
    waiting = next(row for row in rows if row.status == "pending")
    html = await operator.read(f"{LIST}/{waiting.id}")
    assert "<b>Not told yet.</b>" in html
    assert f"{waiting.id}/redeliver" not in html
    for unknown in (uuid4(), "nothing"):
        await operator.read(f"{LIST}/{unknown}", status=404)


async def test_chosen_deliveries_are_made_again_and_noted(
    service: Service, operator: Operator, troubles: Troubles
) -> None:
    rows = await deliveries(service)
    told = [row for row in rows if row.status == "delivered"][:2]
    waiting = next(row for row in rows if row.status == "pending")
    answer = await operator.act(f"{LIST}/redeliver", id=[str(row.id) for row in (*told, waiting)], back="?team=design")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{LIST}?team=design")
    page = await operator.read(f"{LIST}?team=design")
    assert "2 deliveries are made again. 1 stay as they are" in page

    async def again() -> list[int]:
        return [len(await service.rows("SELECT 1 FROM attempts WHERE delivery_id = :id", id=row.id)) for row in told]

    await eventually(again, lambda counts: counts == [2, 2])
    noted = await actions_of(service, "delivery.")
    assert sorted(noted) == sorted(("delivery.redelivered", str(row.id), str(operator.key_id)) for row in told)


async def test_nobody_is_told_again_of_nothing_or_of_too_much(
    service: Service, operator: Operator, troubles: Troubles
) -> None:
    assert (await operator.act(f"{LIST}/redeliver")).status_code == 400
    many = [str(uuid4()) for _ in range(201)]
    assert (await operator.act(f"{LIST}/redeliver", id=many)).status_code == 400
    await operator.act(f"/ops/subscriptions/{troubles.fails}/test")
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE subscriptions SET disabled_at = now(), disabled_reason = 'x'")
    await operator.act(f"{LIST}/redeliver", id=[troubles.undelivered])
    (row,) = await service.rows("SELECT status FROM deliveries WHERE id = :id", id=UUID(troubles.undelivered))
    assert row.status == "undelivered"
    assert await actions_of(service, "delivery.") == []
