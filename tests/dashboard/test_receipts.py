"""The pages of webhooks as they came."""

from __future__ import annotations

import re
from uuid import uuid4

import pytest

from app.webhooks import finding
from tests.dashboard.operators import Operator
from tests.dashboard.troubles import keep_odd_webhooks
from tests.harness import Service, eventually

LIST = "/ops/receipts"


async def shown(operator: Operator, query: str) -> list[str]:
    """The ids of the webhooks that a page of the list holds, in its order."""
    return re.findall('id="receipt-([^"]+)"', await operator.read(f"{LIST}?{query}"))


@pytest.fixture
async def job_id(service: Service, operator: Operator) -> str:
    """A job that was told of by webhook, and twice by nobody knows whom."""
    made = await service.caller.accepted()
    await eventually(lambda: service.rows("SELECT 1 FROM receipts WHERE applied AND event = 'completed'"))
    await keep_odd_webhooks(service, made)
    return made


async def test_webhooks_are_found_by_what_became_of_them(service: Service, operator: Operator, job_id: str) -> None:
    rows = await service.rows("SELECT * FROM receipts ORDER BY id DESC")
    for query, wanted in (
        ("", lambda row: True),
        ("signature=valid", lambda row: row.signature == "valid"),
        ("signature=wrong", lambda row: row.signature == "wrong"),
        ("signature=absent&applied=no", lambda row: row.signature == "absent"),
        ("signature=absent&applied=yes", lambda row: False),
        ("applied=no", lambda row: not row.applied),
        ("outcome=applied", lambda row: row.outcome == "applied"),
        (f"job={job_id}", lambda row: True),
        (f"job={uuid4()}", lambda row: False),
    ):
        assert await shown(operator, query) == [str(row.id) for row in rows if wanted(row)], query
    head = (await operator.read(LIST)).partition('aria-label="Filter"')[0]
    newest, applied = rows[0], next(row for row in rows if row.applied)
    assert head.index(f"{LIST}/{newest.id}") < head.index(f"{LIST}/{applied.id}")
    for query in ("signature=good", "applied=maybe", "job=1", "cursor=x"):
        await operator.read(f"{LIST}?{query}", status=400)


async def test_looking_for_webhooks_ends_and_goes_on(
    service: Service, operator: Operator, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "BUDGET", 2)
    html = await operator.read(f"{LIST}?outcome=applied")
    assert "Looked at all webhooks back to" in html
    assert "none of the last ones" in html  # of the two that are looked at
    older = re.search('href="([^"]+)" rel="next"', html)
    assert older
    assert await shown(operator, older[1].lstrip("?").replace("&amp;", "&"))


async def test_a_webhook_is_shown_as_it_came_until_it_is_past_its_retention(
    service: Service, operator: Operator, job_id: str
) -> None:
    by_kind = {
        (row.signature, row.event): row.id for row in await service.rows("SELECT id, signature, event FROM receipts")
    }
    html = await operator.read(f"{LIST}/{by_kind['valid', 'completed']}")
    for part in ("<b>Applied.</b>", f"/ops/jobs/{job_id}", "x-webhook-signature", "&#34;jobId&#34;: ", "images"):
        assert part in html, part
    assert "<b>Not believed.</b>" in await operator.read(f"{LIST}/{by_kind['wrong', 'completed']}")
    html = await operator.read(f"{LIST}/{by_kind['absent', 'completed']}")
    assert "<b>Taken as a hint.</b>" in html
    assert "no JSON at all &lt;script&gt;" in html
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("DELETE FROM receipt_bodies")
    html = await operator.read(f"{LIST}/{by_kind['wrong', 'completed']}")
    assert "Headers and body are gone: they are kept for 30 days." in html
    for unknown in (uuid4(), "nothing"):
        await operator.read(f"{LIST}/{unknown}", status=404)
