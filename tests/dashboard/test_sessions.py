"""Signing in: what a cookie is good for, for how long, and what cannot be done with somebody else's browser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.dashboard.sessions import ATTEMPTS, IDLE, LONGEST
from app.simulator.server import RunningSimulator
from tests.dashboard.operators import Operator, csrf_of, sign_in
from tests.harness import NO_TLS, FrozenClock, Service, eventually


@pytest.fixture
async def stranger(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60, verify=NO_TLS) as http:
        yield http


async def test_whoever_is_not_signed_in_is_sent_to_do_that_and_back(
    service: Service, stranger: httpx.AsyncClient
) -> None:
    answer = await stranger.get("/ops/audit?action=key.")
    assert (answer.status_code, answer.headers["Location"]) == (
        303,
        "/ops/sign-in?next=%2Fops%2Faudit%3Faction%3Dkey.",
    )
    key = (await service.new_caller("operators", ("ops",))).key
    answer = await stranger.post("/ops/sign-in", data={"key": key, "next": "/ops/audit?action=key."})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/ops/audit?action=key.")
    assert (await stranger.get("/ops/audit?action=key.")).status_code == 200


@pytest.mark.parametrize(
    "wanted", ["https://elsewhere.test/", "//elsewhere.test", "/\\elsewhere.test", "/v1/status", "/ops/\\x"]
)
async def test_nobody_is_led_elsewhere_after_signing_in(
    service: Service, stranger: httpx.AsyncClient, wanted: str
) -> None:
    key = (await service.new_caller("operators", ("ops",))).key
    answer = await stranger.post("/ops/sign-in", data={"key": key, "next": wanted})
    assert answer.headers["Location"] == "/ops"


async def test_the_cookie_is_kept_from_scripts_and_from_other_sites(
    service: Service, stranger: httpx.AsyncClient
) -> None:
    key = (await service.new_caller("operators", ("ops",))).key
    plain = (await stranger.post("/ops/sign-in", data={"key": key})).headers["Set-Cookie"].lower()
    assert {"httponly", "samesite=lax", "path=/ops"} <= {part.strip() for part in plain.split(";")}
    assert "secure" not in plain
    https = await stranger.post("/ops/sign-in", data={"key": key}, headers={"X-Forwarded-Proto": "https"})
    assert "secure" in https.headers["Set-Cookie"].lower()


@pytest.mark.parametrize("scopes", [("submit", "read", "subscribe")])
async def test_a_key_without_the_scope_does_not_sign_in(
    service: Service, stranger: httpx.AsyncClient, scopes: tuple[str, ...]
) -> None:
    caller = await service.new_caller("design", scopes)
    answer = await stranger.post("/ops/sign-in", data={"key": caller.key})
    assert answer.status_code == 403
    assert "scope" in answer.text
    assert "Set-Cookie" not in answer.headers


async def test_guessing_is_slowed_down_and_success_forgives(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service: Service = await serve(simulator, loops=False)
    service.ctx.clock = clock = FrozenClock()
    key = (await service.new_caller("operators", ("ops",))).key
    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60, verify=NO_TLS) as http:
        for _ in range(ATTEMPTS):
            assert (await http.post("/ops/sign-in", data={"key": "fh_live_guess"})).status_code == 401
        refused = await http.post("/ops/sign-in", data={"key": key})
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) == 12
        clock.advance(13)
        assert (await http.post("/ops/sign-in", data={"key": key})).status_code == 303
        for _ in range(ATTEMPTS):
            assert (await http.post("/ops/sign-in", data={"key": "fh_live_guess"})).status_code == 401


async def test_signing_out_ends_the_session_for_good(operator: Operator) -> None:
    cookie = operator.http.cookies["framehook_session"]
    answer = await operator.act("/ops/sign-out")
    assert answer.status_code == 303
    again = await operator.http.get("/ops/audit", headers={"Cookie": f"framehook_session={cookie}"})
    assert again.status_code == 303


async def test_a_session_that_is_idle_or_old_is_over(serve: Callable[..., Any], simulator: RunningSimulator) -> None:
    service: Service = await serve(simulator, loops=False)
    service.ctx.clock = clock = FrozenClock()
    async with AsyncExitStack() as stack:
        operator = await sign_in(stack, service)
        began = clock.time
        clock.time += IDLE - timedelta(minutes=5)
        await operator.read("/ops/audit")
        clock.time += timedelta(minutes=10)
        await operator.read("/ops/audit")  # it was used in between
        clock.time += IDLE
        await operator.read("/ops/audit", status=303)
        operator = await sign_in(stack, service, team="others")
        began = clock.time
        while clock.time < began + LONGEST - IDLE:
            clock.time += IDLE - timedelta(minutes=5)
            await operator.read("/ops/audit")
        clock.time = began + LONGEST
        await operator.read("/ops/audit", status=303)


async def test_a_revoked_key_ends_its_sessions_within_a_second(service: Service, operator: Operator) -> None:
    await operator.read("/ops/audit")
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"UPDATE api_keys SET revoked_at = now() WHERE id = '{operator.key_id}'")

    async def look() -> int:
        return (await operator.http.get("/ops/audit")).status_code

    await eventually(look, lambda status: status == 303)


async def test_a_form_from_another_page_does_nothing(operator: Operator) -> None:
    token = csrf_of(await operator.read("/ops/audit"))
    assert (await operator.http.post("/ops/sign-out", data={})).status_code == 403
    assert (await operator.http.post("/ops/sign-out", data={"csrf": token[:-1] + "_"})).status_code == 403
    foreign = await operator.http.post(
        "/ops/sign-out", data={"csrf": token}, headers={"Origin": "https://elsewhere.test"}
    )
    assert foreign.status_code == 403
    await operator.read("/ops/audit")


async def test_the_token_of_one_session_is_no_good_in_another(service: Service, operator: Operator) -> None:
    async with AsyncExitStack() as stack:
        other = await sign_in(stack, service)
        token = csrf_of(await other.read("/ops/audit"))
        assert (await operator.http.post("/ops/sign-out", data={"csrf": token})).status_code == 403


async def test_sessions_are_good_at_every_process(
    service: Service, operator: Operator, serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    second: Service = await serve(simulator, loops=False)
    answer = await operator.http.get(f"{second.url}/ops/audit")
    assert answer.status_code == 200
    token = csrf_of(answer.text)
    assert (await operator.http.post(f"{second.url}/ops/sign-out", data={"csrf": token})).status_code == 303
    await operator.read("/ops/audit", status=303)


async def test_nothing_from_elsewhere_and_nothing_inline_is_allowed(operator: Operator) -> None:
    answer = await operator.http.get("/ops/audit")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["img-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_signing_in_and_out_is_in_the_audit_log_without_the_key(service: Service, operator: Operator) -> None:
    await operator.act("/ops/sign-out")
    rows = await service.rows("SELECT action, actor, CAST(data AS text) AS data FROM audit_log ORDER BY id")
    told = [(row.action, row.actor) for row in rows if row.action.startswith("session.")]
    assert told == [("session.began", str(operator.key_id)), ("session.ended", str(operator.key_id))]
    assert all(operator.key not in row.data for row in rows)


async def test_an_unknown_page_is_a_404_with_a_way_home(operator: Operator) -> None:
    assert 'href="/ops"' in await operator.read("/ops/nothing-here", status=404)
