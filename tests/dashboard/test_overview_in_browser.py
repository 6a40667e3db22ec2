"""The overview in a real browser: readable in light and in dark, by whoever, and on a phone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from playwright.async_api import BrowserContext

from app.simulator.server import RunningSimulator
from tests.dashboard.browser import find_barriers, hear_trouble, is_cut_off, sign_in_at
from tests.dashboard.operators import Operator
from tests.harness import FLUX, Service, tell

Browse = Callable[..., Awaitable[BrowserContext]]


async def test_the_overview_is_readable_everywhere_and_stays_right_while_it_is_open(
    service: Service, operator: Operator, simulator: RunningSimulator, browse: Browse
) -> None:
    await tell(simulator, "faults", next=["fail", "none"])
    for _ in range(2):
        await service.caller.accepted(FLUX)
    dark = await (await browse(color_scheme="dark")).new_page()
    phone = await (await browse(viewport={"width": 390, "height": 844})).new_page()
    for page in (dark, phone):
        trouble = hear_trouble(page)
        await sign_in_at(page, service.url, operator.key)
        await page.get_by_text("50.0 %").first.wait_for()
        await page.get_by_text("The same figures in a table").click()
        assert await find_barriers(page) == []
        assert not await is_cut_off(page)
        assert trouble == []
    await service.caller.accepted(FLUX)
    figure = phone.locator(".figure", has=phone.get_by_text("Submitted", exact=True)).locator(".value")
    await figure.get_by_text("3", exact=True).wait_for()
    assert await phone.locator("details[data-key='over-time']").get_attribute("open") is not None
