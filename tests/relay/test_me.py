"""`GET /v2/me` is about the caller's Framehook key, in the vendor's own shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.relay import me
from app.relay.me import email
from app.simulator.server import RunningSimulator
from app.teams.ledger import month_of
from tests.harness import FrozenClock, Service, books, refused, tell
from tests.relay.upstreams import Fits, Upstream


async def test_a_key_learns_who_it_is(quiet: Service, fits: Fits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(me, "PATIENCE_SECONDS", 60.0)
    who = fits((await quiet.caller.http.get("/v2/me")).json(), "Me")
    prefix = quiet.caller.key[:14]
    assert who["apiKey"] == {"id": str(quiet.caller.key_id), "name": "", "prefix": prefix}
    assert who["user"] | {"id": ""} == {"id": "", "email": f"tests+{prefix}@framehook.invalid", "role": "MEMBER"}
    assert who["team"]["name"] == "tests"
    assert (who["team"]["plan"], who["team"]["customerId"]) == ("framehook", None)
    assert who["team"]["credits"] == 1_000_000, "the upstream's own, where the team has no budget"
    assert who == (await quiet.caller.http.get("/v2/me")).json()
    colleague = fits((await (await quiet.new_caller("tests", scopes=("subscribe",))).http.get("/v2/me")).json(), "Me")
    assert colleague["team"] == who["team"]
    assert colleague["user"]["id"] != who["user"]["id"]
    for scope in ("ops", "admin"):
        operator = await quiet.new_caller("operators", scopes=(scope,))
        assert (await operator.http.get("/v2/me")).json()["user"]["role"] == "ADMIN"
    refused(await quiet.caller.http.get("/v2/me", headers={"X-API-Key": "none"}), 401)


async def test_a_budget_is_what_is_left_of_it(quiet: Service, simulator: RunningSimulator) -> None:
    async def left() -> int:
        return int((await quiet.caller.http.get("/v2/me")).json()["team"]["credits"])

    await quiet.rows("UPDATE teams SET monthly_credits = 100 RETURNING 1")
    assert await left() == 100
    clock = quiet.ctx.clock = FrozenClock()
    month = month_of(clock.time)
    await quiet.rows(
        "INSERT INTO balances SELECT id, :month, 30, 25 FROM teams"
        " UNION ALL SELECT id, CAST(:month AS date) - 40, 1, 1 FROM teams RETURNING 1",
        month=month,
    )
    assert await left() == 45
    await quiet.rows("UPDATE balances SET spent = 90 RETURNING 1")
    assert await left() == 0
    assert (await books(simulator))["counters"]["requests"].get("GET /v2/me", 0) == 0


async def test_jobs_at_once_are_the_teams_limit_within_the_accounts(quiet: Service) -> None:
    async def cap() -> int:
        return int((await quiet.caller.http.get("/v2/me")).json()["team"]["maxConcurrentJobs"])

    assert await cap() == 10
    await quiet.rows(
        "INSERT INTO upstream_accounts (id, cap, updated_at) VALUES (:id, 7, now()) RETURNING 1", id=quiet.ctx.account
    )
    assert await cap() == 7
    for limit, expected in ((3, 3), (50, 7)):
        await quiet.rows("UPDATE teams SET in_flight_limit = :limit RETURNING 1", limit=limit)
        assert await cap() == expected


async def test_the_upstreams_credits_are_asked_for_once_a_minute(
    quiet: Service, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def left() -> int:
        return int((await quiet.caller.http.get("/v2/me")).json()["team"]["credits"])

    monkeypatch.setattr(me, "PATIENCE_SECONDS", 60.0)
    assert await left() == 1_000_000
    await tell(simulator, "config", credits=5)
    assert await left() == 1_000_000
    assert (await books(simulator))["counters"]["requests"]["GET /v2/me"] == 1
    monkeypatch.setattr(me, "BELIEVED_SECONDS", 0.0)
    assert await left() == 5
    monkeypatch.setattr(me, "ASKED_AGAIN_SECONDS", 0.0)
    await tell(simulator, "faults", down=1)
    assert await left() == 0


async def test_an_upstream_that_hangs_is_not_waited_for(
    facing: Callable[..., Any], upstream: Upstream, monkeypatch: pytest.MonkeyPatch, fits: Fits
) -> None:
    monkeypatch.setattr(me, "PATIENCE_SECONDS", 0.1)
    service = await facing("http://127.0.0.1:1", upstream_timeout_seconds=0.5)
    assert fits((await service.caller.http.get("/v2/me")).json(), "Me")["team"]["credits"] == 0


def test_any_teams_name_makes_an_address() -> None:
    assert email("Design & Motion", "fh_live_aB3-_x") == "design-motion+fh_live_aB3-_x@framehook.invalid"
    assert email("設計", "p") == "team+p@framehook.invalid"
    assert len(email("x" * 500, "fh_live_abcdef").partition("@")[0]) <= 64
