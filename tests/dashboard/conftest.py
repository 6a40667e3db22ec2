"""Fixtures of the dashboard: an operator's client that is signed in, and a real browser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

import pytest
from playwright.async_api import BrowserContext, async_playwright, expect

from tests.dashboard.browser import FLAGS, find_chromium
from tests.dashboard.operators import Operator, sign_in
from tests.dashboard.troubles import Troubles, make_troubles
from tests.harness import Service
from tests.receivers import receiving

TIMEOUT: Final = 60_000
"""Milliseconds that a browser may take for anything."""


@pytest.fixture
async def operator(service: Service) -> AsyncIterator[Operator]:
    """Somebody with the scope `ops`, signed in."""
    async with AsyncExitStack() as stack:
        yield await sign_in(stack, service)


@pytest.fixture
async def admin(service: Service) -> AsyncIterator[Operator]:
    """Somebody with the scope `admin`, signed in."""
    async with AsyncExitStack() as stack:
        yield await sign_in(stack, service, scopes=("admin",))


@pytest.fixture
async def troubles(service: Service) -> AsyncIterator[Troubles]:
    """Something of everything that goes right and wrong."""
    async with receiving() as receiver, receiving() as deaf:
        yield await make_troubles(service, receiver, deaf)


@pytest.fixture
async def browse() -> AsyncIterator[Callable[..., Awaitable[BrowserContext]]]:
    """Open browser windows: `await browse(java_script_enabled=False)`. Without a Chromium the test is skipped."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    expect.set_options(timeout=TIMEOUT)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS, timeout=TIMEOUT)
        contexts: list[BrowserContext] = []

        async def start(**options: object) -> BrowserContext:
            contexts.append(await browser.new_context(**options))  # type: ignore[arg-type]  # Playwright's own options
            contexts[-1].set_default_timeout(TIMEOUT)
            return contexts[-1]

        try:
            yield start
        finally:
            for context in contexts:
                await context.close()
            await browser.close()
