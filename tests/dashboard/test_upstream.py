"""The page of the upstream, and the switch that holds all jobs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from app.jobs.queries import account, breaker
from app.jobs.upstream import note_trouble
from app.simulator.server import RunningSimulator
from tests.dashboard.operators import Operator, sign_in
from tests.dashboard.troubles import actions_of
from tests.harness import Service, eventually
from tests.teams.admins import limit_team, team_id_of

PAGE = "/ops/upstream"


async def test_the_page_says_what_holds_jobs_back(serve: Callable[..., Any], simulator: RunningSimulator) -> None:
    service: Service = await serve(simulator, loops=False, requests_per_minute=60, max_in_flight=3)
    await limit_team(service, "tests", paused=True)
    ctx, now = service.ctx, service.ctx.now()
    key = next(iter(ctx.upstream_keys))
    async with AsyncExitStack() as stack:
        operator = await sign_in(stack, service)
        html = await operator.read(PAGE)
        for part in ("0 of 3", "by FRAMEHOOK_MAX_IN_FLIGHT", "of at most 60 a minute", "is-ready", "not known yet"):
            assert part in html, part
        assert f"/ops/teams/{await team_id_of(service, 'tests')}" in html
        async with ctx.db.transaction() as tx:
            await account.lock_account(tx, ctx.account, now)
            until = now + timedelta(hours=1)
            await breaker.hold(tx, ctx.account, key, until=until, reason="HTTP 401", must_probe=True, now=now)
        await service.caller.accepted(Prefer="respond-async")
        await note_trouble(ctx, "webhook signatures do not verify")
        html = await operator.read(PAGE)
        for part in ("is-held", "HTTP 401", "Jobs wait: every key is held.", "Webhook signatures do not verify"):
            assert part in html, part


async def test_poll_only_is_explained(serve: Callable[..., Any], simulator: RunningSimulator) -> None:
    service: Service = await serve(simulator, loops=False, public_base_url=None, unsigned_webhooks="reject")
    async with AsyncExitStack() as stack:
        operator = await sign_in(stack, service)
        html = await operator.read(PAGE)
        assert "PUBLIC_BASE_URL is not set" in html
        assert "are refused." in html
        assert "poll-only" in await operator.read("/ops/receipts")


async def test_an_admin_pauses_and_resumes_dispatch_for_all(
    service: Service, operator: Operator, admin: Operator
) -> None:
    assert f"{PAGE}/pause" not in await operator.read(PAGE)
    for action in ("pause", "resume"):
        assert (await operator.act(f"{PAGE}/{action}")).status_code == 403
    assert f'action="{PAGE}/pause"' in await admin.read(PAGE)
    assert (await admin.act(f"{PAGE}/pause")).status_code == 303
    job_id = await service.caller.accepted(Prefer="respond-async")
    html = await operator.read(PAGE)
    assert "Dispatch is paused for everybody" in html
    assert (await service.job(job_id)).ambiguous_since is None
    assert (await admin.act(f"{PAGE}/resume")).status_code == 303
    await eventually(lambda: service.caller.read(job_id), lambda job: job["status"] == "COMPLETED")
    assert await actions_of(service, "dispatch.") == [
        ("dispatch.paused", service.ctx.account, str(admin.key_id)),
        ("dispatch.resumed", service.ctx.account, str(admin.key_id)),
    ]
    assert PAGE in (await operator.read("/ops/audit?action=dispatch.")).partition("<main")[2]
