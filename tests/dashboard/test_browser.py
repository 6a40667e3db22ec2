"""The dashboard in a real browser."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from playwright.async_api import BrowserContext

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
