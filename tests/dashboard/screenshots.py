"""Take the pictures of docs/screenshots: `python -m tests.dashboard.screenshots [folder]`. A week is lived before.

It wants a Chromium. Nothing outside this machine is touched; the database is embedded and thrown away.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.async_api import Browser, async_playwright

from app import embedded, migrate, partitions
from app.clock import SettableClock
from app.db import Database
from app.simulator.config import SimulatorConfig
from app.simulator.server import RunningSimulator
from tests.dashboard.browser import FLAGS, find_chromium, sign_in_at
from tests.dashboard.week import COSTS, DAYS, Week, leave_things_undone, set_budgets
from tests.harness import Service, eventually, make_caller, running_service, settings_for
from tests.receivers import receiving

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
LONGEST: Final = 2400

SHOW_ALL: Final = """async () => {
  const pictures = [...document.querySelectorAll("img[loading=lazy]")];
  for (const picture of pictures) picture.loading = "eager";
  while (!pictures.every((picture) => picture.complete)) await new Promise((go_on) => setTimeout(go_on, 50));
  for (const picture of pictures) picture.loading = "lazy";
}"""
"""Pictures that are further down are not fetched before somebody scrolls there, as nobody does here."""

AT_REST: Final = "[...document.images].every((image) => image.complete) && !document.querySelector('.changed')"
"""All that is to be seen is there, and the page marks nothing as new any more."""

BREAKS: Final = ("#drop", "#storm-50", "#kill")
"""What is pressed in the demo before it is photographed."""

SIZES: Final = {"": (1360, 900), "-phone": (390, 844)}


async def take(folder: Path) -> None:
    """Live a week and photograph every page, in light and in dark, and some of them on a phone."""
    path = find_chromium()
    if path is None:
        sys.exit("no Chromium is installed: apt-get install chromium")
    async with AsyncExitStack() as stack:
        week = await stack.enter_async_context(lived_week())
        admin = await make_caller(week.service.ctx, week.service.url, "operators", ("admin",))
        await stack.enter_async_context(admin.http)
        await set_budgets(week, admin)
        demo_url, demo_key = await stack.enter_async_context(running_demo())
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        stack.push_async_callback(browser.close)
        pages = await list_pages(week.service)
        await break_something(browser, demo_url, demo_key)
        for scheme in ("light", "dark"):
            for suffix, size in SIZES.items():
                print(f"{scheme}{suffix}: {len(pages) + 1} pages", flush=True)
                await photograph(browser, week.service.url, admin.key, pages, folder, scheme, suffix, size)
                await photograph(browser, demo_url, demo_key, {"demo": "/ops/demo"}, folder, scheme, suffix, size)


@asynccontextmanager
async def running_demo() -> AsyncIterator[tuple[str, str]]:
    """The demo, in a folder of its own: its address, and a key for its dashboard."""
    with tempfile.TemporaryDirectory() as home:
        here = {"cwd": home, "env": {**os.environ, "PYTHONPATH": str(FOLDER.parents[1])}}
        command = (sys.executable, "-m", "app", "demo", "--port", "0")
        demo = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, **here)  # type: ignore[arg-type]
        assert demo.stdout is not None
        try:
            async for line in demo.stdout:
                if found := re.match(rb"Dashboard +(\S+)/ops +key (\S+)", line):
                    yield found[1].decode(), found[2].decode()
                    break
        finally:
            demo.send_signal(signal.SIGINT)
            await demo.communicate()


async def break_something(browser: Browser, url: str, key: str) -> None:
    """Send a storm of jobs whose webhooks are dropped, and kill a worker under it."""
    context = await browser.new_context()
    page = await context.new_page()
    await sign_in_at(page, url, key)
    for button in BREAKS:
        await page.goto(f"{url}/ops/demo")
        await page.locator(button).click()
        await page.wait_for_load_state()
    await context.close()


@asynccontextmanager
async def lived_week() -> AsyncIterator[Week]:
    """A service with a week behind it, and things to be done."""
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = embedded.start(home / "postgres")
        stack.callback(server.close)
        database = Database(server.url)
        await migrate.upgrade(database)
        clock = SettableClock()
        clock.advance(-timedelta(days=DAYS).total_seconds())
        async with database.transaction() as tx:
            await partitions.ensure(tx, clock.now())
        await database.close()
        config = SimulatorConfig(hold=True, webhook_field="both", costs=COSTS, webhook_backoff_seconds=0.05)
        simulator = stack.enter_context(RunningSimulator(config))
        simulator.world.advance_clock(clock.offset.total_seconds())
        settings = settings_for(server.url, simulator, archive_url=(home / "files").as_uri())
        service = await stack.enter_async_context(running_service(settings))
        service.ctx.clock = clock
        week = Week(service, simulator, clock)
        receivers = {
            team: await stack.enter_async_context(receiving()) for team in ("storefront", "marketing", "research")
        }
        receivers["research"].status = 503
        receivers["marketing"].answers = [500, 200] * 20
        print(f"Living {DAYS} days ...", flush=True)
        await week.begin(receivers)
        await week.live()
        await leave_things_undone(week)
        print(f"{week.job_count} jobs", flush=True)
        yield week


async def list_pages(service: Service) -> dict[str, str]:
    """Every page by the name of its picture; details are of things that have something to tell."""

    async def one(statement: str) -> str:
        rows = await eventually(lambda: service.rows(statement))
        return str(rows[0][0])

    completed = await one(
        "SELECT id FROM jobs WHERE status = 'COMPLETED' AND operation = 'images/generate' ORDER BY created_at DESC"
    )
    failed = await one("SELECT id FROM jobs WHERE status = 'FAILED' ORDER BY created_at DESC")
    running = await one("SELECT id FROM jobs WHERE status = 'PROCESSING' ORDER BY created_at DESC")
    delivery = await one("SELECT id FROM deliveries WHERE attempt_count > 1 ORDER BY attempt_count DESC, id DESC")
    subscription = await one("SELECT id FROM subscriptions ORDER BY failure_count DESC")
    receipt = await one("SELECT id FROM receipts WHERE applied ORDER BY id DESC")
    team = await one("SELECT id FROM teams WHERE name = 'storefront'")
    key = await one("SELECT k.id FROM api_keys k JOIN teams t ON t.id = k.team_id WHERE t.name = 'storefront'")
    return {
        "overview": "/ops?window=7d",
        "jobs": "/ops/jobs",
        "jobs-failed": "/ops/jobs?status=FAILED",
        "job": f"/ops/jobs/{completed}",
        "job-failed": f"/ops/jobs/{failed}",
        "job-running": f"/ops/jobs/{running}",
        "deliveries": "/ops/deliveries",
        "delivery": f"/ops/deliveries/{delivery}",
        "subscriptions": "/ops/subscriptions",
        "subscription": f"/ops/subscriptions/{subscription}",
        "receipts": "/ops/receipts",
        "receipt": f"/ops/receipts/{receipt}",
        "upstream": "/ops/upstream",
        "teams": "/ops/teams",
        "team": f"/ops/teams/{team}",
        "key": f"/ops/keys/{key}",
        "sessions": "/ops/sessions",
        "usage": "/ops/usage",
        "audit": "/ops/audit",
    }


async def photograph(
    browser: Browser,
    url: str,
    key: str,
    pages: dict[str, str],
    folder: Path,
    scheme: str,
    suffix: str,
    size: tuple[int, int],
) -> None:
    """Open every page in one look and one size, and keep its picture."""
    width, height = size
    context = await browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})  # type: ignore[arg-type]
    page = await context.new_page()
    await page.goto(f"{url}/ops/sign-in")
    keep(await page.screenshot(), folder / f"sign-in-{scheme}{suffix}.png")
    await sign_in_at(page, url, key)
    for name, path in pages.items():
        answer = await page.goto(f"{url}{path}")
        assert answer is not None
        assert answer.status == 200, f"{path}: {answer.status}"
        await page.evaluate(SHOW_ALL)
        while not await page.evaluate(AT_REST):
            await asyncio.sleep(0.05)
        # The caret is left alone: it is hidden by a style of every input, which a page that looks again takes for a change.
        keep(await page.screenshot(full_page=True, caret="initial"), folder / f"{name}-{scheme}{suffix}.png")
    await context.close()


def keep(png: bytes, path: Path) -> None:
    """Write a picture, small enough for a repository: the rest of a long list looks like its beginning."""
    with Image.open(io.BytesIO(png)) as picture:
        width, height = picture.size
        picture.crop((0, 0, width, min(height, LONGEST))).convert("RGB").quantize(160).save(path, optimize=True)


if __name__ == "__main__":
    chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    chosen.mkdir(parents=True, exist_ok=True)
    asyncio.run(take(chosen))
