"""The dashboard in a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from playwright.async_api import BrowserContext, Route, expect

from app.simulator.server import RunningSimulator
from tests.dashboard.browser import find_barriers, hear_trouble, is_cut_off, sign_in_at
from tests.harness import Service

Browse = Callable[..., Awaitable[BrowserContext]]


async def test_signing_in_and_out(service: Service, browse: Browse) -> None:
    key = (await service.new_caller("operators", ("ops",))).key
    page = await (await browse()).new_page()
    trouble = hear_trouble(page)
    await sign_in_at(page, service.url, key)
    await page.goto(f"{service.url}/ops/audit")
    assert await find_barriers(page) == []
    assert not await is_cut_off(page)
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_text("You are signed out.").wait_for()
    assert trouble == []


async def test_what_happens_before_a_page_is_live_is_shown_as_soon_as_it_is(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator], browse: Browse
) -> None:
    service: Service = await serve(simulate(hold=True))
    page = await (await browse()).new_page()
    await sign_in_at(page, service.url, (await service.new_caller("operators", ("ops",))).key)
    is_asked, may_open = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        is_asked.set()
        await may_open.wait()
        await route.continue_()

    await page.route("**/ops/live**", hold)
    await page.goto(f"{service.url}/ops/jobs")
    await is_asked.wait()
    job_id = await service.caller.accepted()
    may_open.set()
    await expect(page.locator(f'a[href="/ops/jobs/{job_id}"]').first).to_be_visible()
