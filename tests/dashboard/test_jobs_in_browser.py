"""The list of jobs and the page of one in a real browser, over a running service that keeps files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import BrowserContext, Page, ViewportSize, expect

from app.simulator.server import RunningSimulator
from tests.archive.stories import Archive, archiving
from tests.dashboard.browser import find_barriers, hear_trouble, is_cut_off, sign_in_at
from tests.harness import FLUX, HeldJob, eventually, held_job, tell
from tests.objects import folder_place
from tests.ops.aged import noon
from tests.receivers import Receiver, receiving

Browse = Callable[..., Awaitable[BrowserContext]]

PHONE: Final[ViewportSize] = {"width": 390, "height": 844}
DESK: Final[ViewportSize] = {"width": 1280, "height": 900}

LISTEN: Final = """
    window.said = [];
    const now = document.querySelector("#now");
    const note = () => window.said.push(now.querySelector("[data-copy]").textContent);
    new MutationObserver(note).observe(now, {childList: true, characterData: true, subtree: true});
"""
"""Has the page note what its button to copy says: "Copied" is there for a moment only."""


@pytest.fixture
async def archive(
    database_url: str, simulate: Callable[..., RunningSimulator], tmp_path: Path
) -> AsyncIterator[Archive]:
    """A service that keeps files in a folder, in front of a simulator whose jobs end when the test says so."""
    async with archiving(database_url, simulate, folder_place(tmp_path)) as running:
        yield running


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Whoever is called back."""
    async with receiving() as running:
        yield running


async def submit(archive: Archive, receiver: Receiver, prompt: str) -> HeldJob:
    body = FLUX | {"prompt": prompt, "webhook_url": receiver.url, "webhookEvents": ["completed"]}
    return await held_job(archive.service, archive.simulator, body=body)


async def say(archive: Archive, job: HeldJob, what: str, **fields: object) -> None:
    await tell(archive.simulator, f"jobs/{job.upstream_id}/{what}", wait=True, **fields)


async def fail(archive: Archive, receiver: Receiver, *prompts: str) -> None:
    for prompt in prompts:
        await say(archive, await submit(archive, receiver, prompt), "finish", status="FAILED", error="moderated")


async def is_loaded(page: Page) -> bool:
    """Whether the picture is there, and not just its frame."""
    script = "document.querySelector('#media img')?.complete && document.querySelector('#media img').naturalWidth > 0"
    return bool(await page.evaluate(script))


async def must_be_readable(page: Page) -> None:
    """By everybody: in both colour schemes, and on a phone."""
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        assert await find_barriers(page) == []
    await page.set_viewport_size(PHONE)
    assert not await is_cut_off(page)
    await page.set_viewport_size(DESK)
    assert not await is_cut_off(page)


async def test_a_job_is_watched_as_it_happens(archive: Archive, receiver: Receiver, browse: Browse) -> None:
    url = archive.service.url
    page = await (await browse(viewport=DESK, permissions=["clipboard-write"])).new_page()
    trouble = hear_trouble(page)
    await sign_in_at(page, url, (await archive.service.new_caller("operators", ("ops",))).key)
    fox = await submit(archive, receiver, "a fox in the snow")
    hen = await submit(archive, receiver, "a hen in the rain")
    await page.goto(f"{url}/ops/jobs")
    await page.get_by_label("queued").check()
    await page.get_by_label("Team").select_option("tests")
    await page.get_by_role("button", name="Filter").click()
    await page.wait_for_url(f"{url}/ops/jobs?team=tests&status=QUEUED")
    await expect(page.locator("[data-live-state]")).to_have_text("Live")
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("x")
    await expect(page.locator("tr.selected")).to_contain_text("a fox in the snow")
    await expect(page.get_by_text("1 chosen")).to_be_visible()
    cow = await submit(archive, receiver, "a cow on the roof")
    await expect(page.locator("tbody tr").first).to_contain_text("a cow on the roof")
    await say(archive, cow, "finish", status="FAILED")
    await expect(page.locator("tbody tr")).to_have_count(2)
    await expect(page.locator("tr.selected")).to_contain_text("a fox in the snow")
    await expect(page.locator("tr.selected input")).to_be_checked()
    await must_be_readable(page)

    await page.locator("tr.selected a").first.press("Enter")
    await page.wait_for_url(f"{url}/ops/jobs/{fox.id}")
    await page.evaluate("window.walked = true")
    await page.evaluate(LISTEN)
    await page.locator("#now").get_by_role("button", name="Copy").click()
    await eventually(lambda: page.evaluate("window.said.includes('Copied')"))
    await expect(page.locator("h1")).to_contain_text("QUEUED")
    await say(archive, fox, "progress", progress=40)
    await expect(page.locator("h1")).to_contain_text("PROCESSING")
    await page.get_by_text("Raw body").first.click()
    await expect(page.get_by_label("Raw body").first).to_contain_text('"progress"')
    await say(archive, fox, "finish")
    await expect(page.locator("h1")).to_contain_text("COMPLETED")
    await eventually(lambda: is_loaded(page))
    await expect(page.get_by_label("Raw body").first).to_be_visible()
    await expect(page.locator("#deliveries")).to_contain_text("delivered")
    assert await page.evaluate("window.walked"), "nothing was loaded anew"
    await must_be_readable(page)
    await page.get_by_role("button", name="Redeliver").click()
    await expect(page.get_by_text("Delivered again.")).to_be_visible()
    await receiver.wait(2)

    await page.goto(f"{url}/ops/jobs/{hen.id}")
    await expect(page.locator("[data-live-state]")).to_have_text("Live")
    await page.get_by_role("button", name="Pause live").click()
    await say(archive, hen, "finish", result={"images": []})
    await expect(page.get_by_text("missed")).to_be_visible()
    await expect(page.locator("h1")).to_contain_text("QUEUED")
    await page.get_by_role("button", name="Go on live").click()
    await expect(page.locator("h1")).to_contain_text("COMPLETED")
    assert trouble == []


async def test_many_are_tried_again_after_a_look(archive: Archive, receiver: Receiver, browse: Browse) -> None:
    url = archive.service.url
    page = await (await browse(viewport=DESK)).new_page()
    trouble = hear_trouble(page)
    archive.service.ctx.clock = noon()
    await fail(archive, receiver, "one", "two", "three")
    await sign_in_at(page, url, (await archive.service.new_caller("operators", ("ops",))).key)
    await page.goto(f"{url}/ops/jobs")
    await page.get_by_role("link", name="Failed today").click()
    await page.get_by_label("Choose all on this page").check()
    await expect(page.get_by_text("3 chosen")).to_be_visible()
    await page.locator("tbody tr", has_text="two").get_by_role("checkbox").uncheck()
    await page.get_by_role("button", name="Try again …").click()
    await expect(page.get_by_role("heading", name="Try again: 2 jobs")).to_be_visible()
    await must_be_readable(page)
    await page.get_by_role("button", name="Try again 2").click()
    await expect(page.locator(".figure", has_text="Tried again")).to_contain_text("2")
    made = await archive.service.rows("SELECT input ->> 'prompt' AS prompt FROM jobs WHERE retry_of IS NOT NULL")
    assert sorted(row.prompt for row in made) == ["one", "three"]
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_text("You are signed out.").wait_for()
    assert trouble == []


async def test_all_of_it_works_without_scripts(archive: Archive, receiver: Receiver, browse: Browse) -> None:
    url = archive.service.url
    page = await (await browse(java_script_enabled=False)).new_page()
    await fail(archive, receiver, "one", "two")
    fox = await submit(archive, receiver, "a fox in the snow")
    await sign_in_at(page, url, (await archive.service.new_caller("operators", ("ops",))).key)
    await page.goto(f"{url}/ops/jobs")
    await page.get_by_label("queued").check()
    await page.get_by_role("button", name="Filter").click()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await page.get_by_role("link", name=FLUX["model"]).click()
    await expect(page.locator("h1")).to_contain_text("QUEUED")
    await say(archive, fox, "finish")
    await archive.settled(fox.id)
    await receiver.wait(1)
    await page.reload()
    await expect(page.locator("h1")).to_contain_text("COMPLETED")
    picture = page.locator("#media img")
    answer = await page.request.get(f"{url}{await picture.get_attribute('src')}")
    assert answer.headers["content-type"] == "image/jpeg"
    await page.get_by_role("button", name="Redeliver").click()
    await expect(page.get_by_text("Delivered again.")).to_be_visible()
    await receiver.wait(2)

    await page.goto(f"{url}/ops/jobs?status=FAILED")
    await page.get_by_label("or all that match").check()
    await page.get_by_role("button", name="Try again …").click()
    await page.get_by_role("button", name="Try again 2").click()
    await expect(page.locator(".figure", has_text="Tried again")).to_contain_text("2")
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_text("You are signed out.").wait_for()
