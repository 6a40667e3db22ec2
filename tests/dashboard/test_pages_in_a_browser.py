"""The pages around jobs in a real browser: readable by everybody, on a phone too, and usable without scripts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import BrowserContext

from tests.dashboard.browser import find_barriers, hear_trouble, is_cut_off, sign_in_at
from tests.dashboard.operators import Operator
from tests.dashboard.troubles import Troubles
from tests.harness import Service

Browse = Callable[..., Awaitable[BrowserContext]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_is_readable_in_light_and_dark_and_on_a_phone(
    service: Service, admin: Operator, troubles: Troubles, browse: Browse, scheme: str
) -> None:
    (receipt,) = await service.rows("SELECT id FROM receipts WHERE applied ORDER BY id LIMIT 1")
    page = await (await browse(color_scheme=scheme)).new_page()
    trouble = hear_trouble(page)
    await sign_in_at(page, service.url, admin.key)
    for path in (*troubles.pages, f"/ops/receipts/{receipt.id}"):
        await page.set_viewport_size({"width": 1280, "height": 900})
        await page.goto(f"{service.url}{path}")
        assert await find_barriers(page) == [], path
        assert not await is_cut_off(page), path
        await page.set_viewport_size({"width": 390, "height": 844})
        assert not await is_cut_off(page), f"{path} on a phone"
    assert trouble == []


async def test_without_scripts_everything_is_said_and_done(
    service: Service, operator: Operator, troubles: Troubles, browse: Browse
) -> None:
    page = await (await browse(java_script_enabled=False)).new_page()
    await sign_in_at(page, service.url, operator.key)
    await page.goto(f"{service.url}/ops/deliveries?status=undelivered")
    await page.get_by_label("Choose job.completed").check()
    await page.get_by_role("button", name="Redeliver the chosen").click()
    await page.get_by_text("1 delivery is made again.").wait_for()
