"""A real browser: where it is, how it is started, and what must hold of every page that it opens."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Final

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page

FLAGS: Final[Sequence[str]] = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


def find_chromium() -> str | None:
    """The system's own Chromium; none is downloaded."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


async def sign_in_at(page: Page, url: str, key: str) -> None:
    """Sign in as somebody does who sees the page for the first time."""
    await page.goto(f"{url}/ops")
    await page.get_by_label("Key", exact=True).fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"{url}/ops")


def hear_trouble(page: Page) -> list[str]:
    """What the page's console complains of, from now on: errors of scripts, and whatever its policy forbids."""
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: heard.append(str(error)))
    return heard


async def find_barriers(page: Page) -> list[str]:
    """Serious and critical findings of axe-core on the page as it is: rule, and the element."""
    report = await Axe().run(page)
    return [
        f"{violation['id']}: {node['html'][:200]}"
        for violation in report.response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


async def is_cut_off(page: Page) -> bool:
    """Whether the page is wider than the window."""
    wider: bool = await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth + 1")
    return wider
