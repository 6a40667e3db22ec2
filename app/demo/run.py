"""The whole product in one terminal: embedded PostgreSQL, a simulated Apiframe, the service, and one job through them.

Nothing outside this machine is touched: what the environment says of a database or an upstream is left aside.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import httpx
from rich.console import Console

from app import serving
from app.config import Settings, load_settings
from app.context import open_context
from app.db import OUTAGES
from app.demo.troubles import Troubles
from app.demo.workers import Workers
from app.errors import StartupError
from app.simulator.config import SimulatorConfig
from app.simulator.server import RunningSimulator
from app.teams.keys import create_key

TEAM: Final = "demo"
AT_ONCE: Final = 25
"""Jobs that the simulated Apiframe runs at once: a storm is over before one tires of it."""

ASK_AFTER_SECONDS: Final = 5.0
"""A little more than a generation takes here: where webhooks are dropped, jobs are asked after soon."""

START_SECONDS: Final = 60.0
JOB_SECONDS: Final = 60.0

SUBMISSION: Final = {
    "model": "flux-1.1-pro-ultra",
    "prompt": "a lighthouse in a storm, oil on canvas",
    "fluxParams": {"aspect_ratio": "16:9", "output_format": "png"},
}


def run(*, port: int, once: bool, out: Console) -> None:
    """Start everything, show one job, and stay up until Ctrl-C (or not, with `once`); raise StartupError if it fails."""
    simulator = RunningSimulator(SimulatorConfig(queue_seconds=0.5, generate_seconds=2.5, max_concurrent_jobs=AT_ONCE))
    port = port if _is_free(port) else 0
    with suppress(KeyboardInterrupt), simulator, serving.listen("127.0.0.1", port) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        settings = _settings(address, simulator)
        out.print(f"[dim]PostgreSQL in {settings.data_dir}/, a simulated Apiframe on {simulator.url}, starting …[/]")
        with Workers(settings) as workers:
            troubles = Troubles(simulator, workers, address)
            walk = Walk(settings, address, troubles, out)
            serving.serve_here(settings, listening, meanwhile=lambda stop: walk.run(stop, once=once), demo=troubles)
        if walk.failure:
            raise StartupError(walk.failure)


class Walk:
    """One job from the first call to its picture, told as it happens."""

    def __init__(self, settings: Settings, address: str, troubles: Troubles, out: Console) -> None:
        self._settings = settings
        self._address = address
        self._troubles = troubles
        self._out = out
        self.failure: str | None = None

    def run(self, stop: Callable[[], None], *, once: bool) -> None:
        """Walk in a thread beside the service; call `stop` at the end, if `once`, or as soon as something fails."""
        try:
            self._await_ready()
            key, operators = asyncio.run(self._make_keys())
            self._troubles.key = key
            caller = {"X-API-Key": key}
            with httpx.Client(base_url=self._address, headers=caller, trust_env=False, timeout=JOB_SECONDS) as client:
                self._follow(client)
            if not once:
                self._explain(key, operators)
        except (httpx.HTTPError, StartupError, *OUTAGES) as error:
            self.failure = f"the demo failed: {error}"
        finally:
            if once or self.failure:
                stop()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        with httpx.Client(base_url=self._address, trust_env=False) as client:
            while time.monotonic() < deadline:
                with suppress(httpx.TransportError):
                    if client.get("/readyz").status_code == httpx.codes.OK:
                        return
                time.sleep(0.1)
        raise StartupError(f"the service was not ready within {START_SECONDS:g} s")

    async def _make_keys(self) -> tuple[str, str]:
        """A key to submit with, and one to sign in with at the dashboard."""
        async with open_context(self._settings) as ctx, ctx.db.transaction() as tx:
            made = await create_key(tx, team=TEAM, scopes=("submit", "read", "subscribe"), now=ctx.now(), name="demo")
            operators = await create_key(tx, team=TEAM, scopes=("ops",), now=ctx.now(), name="dashboard")
        return made.key, operators.key

    def _follow(self, client: httpx.Client) -> None:
        accepted = client.post("/v2/images/generate", json=SUBMISSION).raise_for_status().json()
        self._out.print(f"[bold]202[/] accepted as job {accepted['jobId']}")
        deadline, shown, job = time.monotonic() + JOB_SECONDS, None, {"status": accepted["status"]}
        while time.monotonic() < deadline:
            if (job["status"], job.get("progress")) != shown:
                shown = (job["status"], job.get("progress"))
                self._out.print(f"    {job['status']:<10} {'' if shown[1] is None else f'{shown[1]} %'}")
            if job["status"] in ("COMPLETED", "FAILED", "CANCELLED"):
                break
            time.sleep(0.2)
            job = client.get(f"/v2/jobs/{accepted['jobId']}").raise_for_status().json()
        if job["status"] != "COMPLETED":
            raise StartupError(f"the job is {job['status']}: {job.get('error')}")
        url = job["result"]["images"][0]
        picture = httpx.get(url, trust_env=False, timeout=JOB_SECONDS).raise_for_status()
        self._out.print(f"    picture    {url}", soft_wrap=True)
        self._out.print(f"               {picture.headers['content-type']}, {len(picture.content):,} bytes")
        while job["archiveStatus"] == "pending" and time.monotonic() < deadline:
            time.sleep(0.1)
            job = client.get(f"/v2/jobs/{accepted['jobId']}").raise_for_status().json()
        for file in job["files"]:
            self._out.print(f"    kept       {file['url']}", soft_wrap=True)

    def _explain(self, key: str, operators: str) -> None:
        body = '{"model": "flux-1.1-pro-ultra", "prompt": "a quiet harbour at dawn"}'
        known = f"-H 'X-API-Key: {key}'"
        self._out.print("\nSubmit one yourself:", style="bold")
        for line in (
            f"curl -s {self._address}/v2/images/generate {known} -H 'Content-Type: application/json' -d '{body}'",
            f"curl -s '{self._address}/v2/jobs?limit=5' {known}",
        ):
            self._out.print(line, soft_wrap=True, markup=False)
        self._out.print("\nOr have the picture itself, in one call:", style="bold")
        wish = f"-H 'Authorization: Bearer {key}' -H 'Prefer: wait=60' -H 'Accept: image/*'"
        self._out.print(
            f"curl -sL {self._address}/v2/images/generate {wish} -H 'Content-Type: application/json' -d '{body}'"
            " -o picture.jpg",
            soft_wrap=True,
            markup=False,
        )
        self._out.print("\nSee what happens, as it happens, or have it posted to a server of yours:", style="bold")
        listen = f"framehook listen --url {self._address} --key {key}"
        self._out.print(f"{listen}  # --forward http://localhost:3000/hook", soft_wrap=True, markup=False)
        self._out.print(
            "\nOr break it, and see that nothing is lost: sign in at the dashboard, then Break it.", style="bold"
        )
        self._out.print(f"Dashboard  {self._address}/ops  key {operators}", soft_wrap=True, markup=False)
        self._out.print(f"\nKey        {key}\nReference  {self._address}/docs", soft_wrap=True)
        self._out.print(
            "\nCtrl-C stops everything; the next demo finds the jobs where this one leaves them.", style="dim"
        )


def _settings(address: str, simulator: RunningSimulator) -> Settings:
    own = load_settings()
    return load_settings(
        database_url=None,
        direct_database_url=None,
        data_dir=own.data_dir,
        public_base_url=address,
        apiframe_base_url=simulator.url,
        apiframe_api_key=simulator.world.config.api_keys[0],
        apiframe_previous_api_keys=(),
        allowed_targets=("127.0.0.0/8", "::1"),  # whoever tries the demo has receivers on this machine, if any
        archive_url=None,
        loops=False,  # they run in processes of their own, which may be killed
        reconcile_after_seconds=ASK_AFTER_SECONDS,
        log_level="error",  # what a visitor breaks is told on the page that breaks it
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
