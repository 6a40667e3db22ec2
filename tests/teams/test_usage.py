"""Usage is the ledger's sums, for those who may see them, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.exports import as_csv
from app.teams.usage import Asked
from tests.harness import Caller, FrozenClock, Service, refused

DAY = datetime(2026, 11, 3, 12, tzinfo=UTC)


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulator: Any) -> Service:
    service: Service = await serve(simulator, loops=False)
    return service


async def spend(
    service: Service, team: str, model: str, credits_: int, at: datetime = DAY, kind: str = "settle"
) -> None:
    """An entry of the ledger, as a job makes it."""
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(
            f"""
            INSERT INTO ledger (id, at, team_id, month, job_id, operation, model, kind, reserved_change, spent_change)
            SELECT '{uuid4()}', '{at.isoformat()}', id, date_trunc('month', timestamptz '{at.isoformat()}'), '{uuid4()}',
                'images/generate', '{model}', '{kind}', 0, {credits_}
            FROM teams WHERE name = '{team}'
            """
        )


async def usage(caller: Caller, **query: str) -> dict[str, Any]:
    span = {"from": "2026-11-01", "to": "2026-12-01"}
    answer = await caller.http.get("/v1/usage", params=span | query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_usage_is_summed_by_whatever_is_asked_for(quiet: Service) -> None:
    for model, credits_, days in (("a", 10, 0), ("a", 5, 1), ("b", 1, 1)):
        await spend(quiet, "tests", model, credits_, DAY + timedelta(days=days))
    await spend(quiet, "tests", "a", 0, kind="release")
    by_model = await usage(quiet.caller)
    assert by_model["groups"] == [
        {"model": "a", "jobs": 2, "credits": 15},
        {"model": "b", "jobs": 1, "credits": 1},
    ]
    assert by_model["total"] == {"jobs": 3, "credits": 16}
    by_day = await usage(quiet.caller, group_by="day,model")
    assert [(each["model"], each["day"], each["credits"]) for each in by_day["groups"]] == [
        ("a", "2026-11-03", 10),
        ("a", "2026-11-04", 5),
        ("b", "2026-11-04", 1),
    ]
    assert (await usage(quiet.caller, group_by="team,operation"))["groups"] == [
        {"team": "tests", "operation": "images/generate", "jobs": 3, "credits": 16}
    ]
    assert (await usage(quiet.caller, group_by=""))["groups"] == [{"jobs": 3, "credits": 16}]
    assert (await usage(quiet.caller, to="2026-11-04"))["total"] == {"jobs": 1, "credits": 10}
    nothing = await usage(quiet.caller, **{"from": "2026-10-01", "to": "2026-11-01"})
    assert (nothing["groups"], nothing["total"]) == ([], {"jobs": 0, "credits": 0})


async def test_a_team_sees_its_own_usage_and_operators_see_all(quiet: Service) -> None:
    other = await quiet.new_caller("other")
    operator = await quiet.new_caller("operators", ("ops",))
    await spend(quiet, "tests", "a", 10)
    await spend(quiet, "other", "a", 20)
    assert (await usage(quiet.caller))["total"]["credits"] == 10
    assert (await usage(other, team="other"))["total"]["credits"] == 20
    for team in ("tests", "*", "nobody"):
        refused(await other.http.get("/v1/usage", params={"team": team}), 403)
    assert (await usage(operator, team="tests"))["total"]["credits"] == 10
    everybody = await usage(operator, team="*", group_by="team")
    assert [(each["team"], each["credits"]) for each in everybody["groups"]] == [("other", 20), ("tests", 10)]
    assert everybody["budget"] is None
    assert "team" in refused(await operator.http.get("/v1/usage", params={"team": "nobody"}), 400)["details"]
    writer = await quiet.new_caller("tests", ("submit",))
    refused(await writer.http.get("/v1/usage"), 403)


async def test_the_budget_of_the_month_is_told(quiet: Service) -> None:
    quiet.ctx.clock = FrozenClock()
    assert (await usage(quiet.caller))["budget"] == {
        "month": f"{quiet.ctx.now():%Y-%m}",
        "limit": None,
        "reserved": 0,
        "spent": 0,
        "available": None,
    }
    async with quiet.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE teams SET monthly_credits = 100 WHERE name = 'tests'")
        await tx.exec_driver_sql(
            f"INSERT INTO balances SELECT id, '{quiet.ctx.now():%Y-%m-01}', 30, 90 FROM teams WHERE name = 'tests'"
        )
    told = (await usage(quiet.caller))["budget"]
    assert (told["limit"], told["reserved"], told["spent"], told["available"]) == (100, 30, 90, 0)


@pytest.mark.parametrize("how", ["query", "header"])
async def test_usage_comes_as_csv_too(quiet: Service, how: str) -> None:
    await spend(quiet, "tests", 'a, "b"', 10)
    await spend(quiet, "tests", "=1+1", 5)
    query = {"from": "2026-11-01", "to": "2026-12-01", "group_by": "model,day"} | (
        {"format": "csv"} if how == "query" else {}
    )
    headers = {"Accept": "text/csv"} if how == "header" else {}
    answer = await quiet.caller.http.get("/v1/usage", params=query, headers=headers)
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert "usage-20261101-20261201.csv" in answer.headers["Content-Disposition"]
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[0] == ["model", "day", "jobs", "credits"]
    assert sorted(rows[1:]) == [["'=1+1", "2026-11-03", "1", "5"], ['a, "b"', "2026-11-03", "1", "10"]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"group_by": "key"}, "group_by"),
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-13-01"}, "to"),
        ({"from": "2026-11-02", "to": "2026-11-01"}, "to"),
        ({"from": "2020-01-01"}, "to"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(quiet: Service, query: dict[str, str], field: str) -> None:
    assert list(refused(await quiet.caller.http.get("/v1/usage", params=query), 400)["details"]) == [field]


@given(st.lists(st.text(min_size=1), min_size=1))
def test_no_name_becomes_a_formula_or_breaks_a_line_of_csv(names: list[str]) -> None:
    text = as_csv(["model", "jobs", "credits"], [{"model": name, "jobs": 1, "credits": 2} for name in names])
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(rows) == len(names) + 1
    for row, name in zip(rows[1:], names, strict=True):
        assert row[0].removeprefix("'") == name.removeprefix("'")
        assert row[0][:1] not in ("=", "+", "-", "@", "\t", "\r")


def test_without_a_time_it_is_this_month_so_far() -> None:
    asked = Asked.parse({}, DAY)
    assert (asked.begins_at, asked.ends_at, asked.groups) == (datetime(2026, 11, 1, tzinfo=UTC), DAY, ("model",))
