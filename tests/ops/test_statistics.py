"""Statistics are sums of tallies: nothing is missing in a window, nothing is in it twice, and nobody else's is in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.ops.statistics import DEFAULT_WINDOW, WINDOWS
from app.simulator.server import RunningSimulator
from app.teams.keys import create_key
from tests.harness import FLUX, Caller, Service, eventually, refused, tell

TIMES = st.integers(0, 366 * 86_400).map(lambda seconds: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds))


async def ask(caller: Caller, **query: str) -> dict[str, Any]:
    answer = await caller.http.get("/v1/stats", params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_team_sees_how_its_own_jobs_went_and_operators_how_all_went(
    service: Service, simulator: RunningSimulator
) -> None:
    operator = await service.new_caller("operators", ("ops",))
    others = await service.new_caller("others")
    async with service.ctx.db.transaction() as tx:
        made = await create_key(tx, team="tests", scopes=("submit", "read"), now=service.ctx.now(), test=True)
    tester = Caller(service.url, made.key, made.id)
    await service.clients.enter_async_context(tester.http)
    await tell(simulator, "faults", next=["fail", "none", "none"])
    await service.caller.accepted()
    await service.caller.accepted()
    await others.accepted(FLUX | {"model": "flux-2-max"})
    await tester.accepted()

    async def ended(jobs: int, caller: Caller, **query: str) -> dict[str, Any]:
        return await eventually(
            lambda: ask(caller, **query),
            lambda seen: sum(seen["total"][how] for how in ("completed", "failed")) == jobs,
        )

    own = await ended(2, service.caller)
    assert (own["team"], own["window"], own["stepSeconds"]) == ("tests", DEFAULT_WINDOW, 3600)
    total = own["total"]
    assert (total["submitted"], total["completed"], total["failed"]) == (2, 1, 1)
    assert (total["successRate"], total["credits"]) == (0.5, 10)
    assert [(each["model"], each["failed"]) for each in own["models"]] == [(FLUX["model"], 1)]
    assert [(each["team"], each["submitted"]) for each in own["teams"]] == [("tests", 2)]
    assert [(each["operation"], each["submitted"]) for each in own["operations"]] == [("images/generate", 2)]
    everybody = await ended(3, operator, team="*", window="1h")
    assert everybody["total"]["submitted"] == 3
    assert sorted(each["team"] for each in everybody["teams"]) == ["others", "tests"]
    assert {each["model"]: each["submitted"] for each in everybody["models"]} == {FLUX["model"]: 2, "flux-2-max": 1}
    of_tests = await ended(1, tester, window="30d")
    assert (of_tests["total"]["submitted"], of_tests["team"] != "tests") == (1, True)
    for each in everybody["models"]:
        assert 0 < each["queue"]["p50Seconds"] <= each["queue"]["p95Seconds"] < 60
        assert 0 < each["generation"]["p50Seconds"] < 60
    for window, slots in (("1h", 12), ("24h", 24), ("7d", 28), ("30d", 30)):
        seen = await ask(operator, team="*", window=window)
        assert len(seen["series"]) == slots
        assert seen["from"] == seen["series"][0]["from"]
        assert sum(slot["submitted"] for slot in seen["series"]) == 3
        assert (seen["total"], seen["models"]) == (everybody["total"], everybody["models"])


async def test_what_may_not_be_asked_is_refused(service: Service) -> None:
    for team in ("others", "*", "nobody"):
        refused(await service.caller.http.get("/v1/stats", params={"team": team}), 403)
    assert list(refused(await service.caller.http.get("/v1/stats?window=2h"), 400)["details"]) == ["window"]
    operator = await service.new_caller("operators", ("ops",))
    assert list(refused(await operator.http.get("/v1/stats?team=nobody"), 400)["details"]) == ["team"]
    assert list(refused(await operator.http.get("/v1/stats?team=%00"), 400)["details"]) == ["team"]
    refused(await (await service.new_caller("tests", ("submit",))).http.get("/v1/stats"), 403)


@given(TIMES, st.sampled_from(sorted(WINDOWS)))
def test_slots_follow_each_other_up_to_the_one_that_is_not_over(now: datetime, name: str) -> None:
    window = WINDOWS[name]
    slots = window.slots(now)
    assert len(slots) == window.slot_count
    assert slots[-1] <= now < slots[-1] + window.step
    assert all(later - earlier == window.step for earlier, later in pairwise(slots))
