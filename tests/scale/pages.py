"""Measure every page of the dashboard, and the list of jobs by every filter, on a database that is full:
`python -m tests.scale.pages --database URL`. Exits with 1 where a page takes longer than it may."""

from __future__ import annotations

import argparse
import asyncio
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from app.dashboard.routes import PAGES
from app.ops.statistics import WINDOWS
from app.paging import Cursor
from app.simulator.config import SimulatorConfig
from app.simulator.server import RunningSimulator
from tests.dashboard.operators import Operator, sign_in
from tests.harness import Service, running_service, settings_for

LIST_MS: Final = 100.0
OVERVIEW_MS: Final = 200.0
PAGE_MS: Final = 300.0

API: Final = "/v2/jobs"
LIST: Final = "/ops/jobs"
EXPORT: Final = "/ops/jobs."
"""What is as long as the history takes as long."""

TABLES: Final[Mapping[str, str]] = {
    "job_id": "jobs",
    "file_id": "files",
    "delivery_id": "deliveries",
    "subscription_id": "subscriptions",
    "receipt_id": "receipts",
    "team_id": "teams",
    "key_id": "api_keys",
    "replay_id": "replays",
}
"""Where the ids in the addresses of pages come from."""

FILTERS: Final[Mapping[str, Mapping[str, str]]] = {
    "nothing": {},
    "common model": {"model": "flux-1.1-pro-ultra"},
    "rare model": {"model": "topaz-video-upscale"},
    "absent model": {"model": "absent"},
    "common operation": {"operation": "images/generate"},
    "rare operation": {"operation": "videos/upscale"},
    "absent operation": {"operation": "absent"},
    "completed": {"status": "COMPLETED"},
    "failed": {"status": "FAILED"},
    "cancelled": {"status": "CANCELLED"},
    "over without success": {"status": "FAILED,CANCELLED"},
    "open": {"status": "QUEUED,PROCESSING"},
    "all but completed": {"status": "QUEUED,PROCESSING,FAILED,CANCELLED"},
    "failed, rare model": {"status": "FAILED", "model": "topaz-video-upscale"},
    "failed, absent model": {"status": "FAILED", "model": "absent"},
    "completed, rare model": {"status": "COMPLETED", "model": "topaz-video-upscale"},
    "common error": {"errorCode": "upstream_failed"},
    "rare error, rare model": {"errorCode": "lost", "model": "topaz-video-upscale"},
    "absent error": {"errorCode": "absent"},
    "overdue": {"overdue": "true"},
    "common metadata": {"metadata.campaign": "c5"},
    "rare metadata": {"metadata.shot": "4001"},
    "one job's metadata": {"metadata.order": "o-10000"},
    "absent metadata": {"metadata.order": "absent"},
    "metadata, model": {"metadata.campaign": "c5", "model": "topaz-video-upscale"},
    "metadata, failed": {"metadata.campaign": "c5", "status": "FAILED"},
    "common word": {"q": "castle"},
    "common words": {"q": "castle storm night"},
    "phrase": {"q": '"castle storm night"'},
    "one word or another": {"q": "castle OR quokka"},
    "rare word": {"q": "quokka"},
    "very rare word": {"q": "axolotl"},
    "absent word": {"q": "absent"},
    "common word, cancelled": {"q": "castle", "status": "CANCELLED"},
    "common word, rare model": {"q": "castle", "model": "topaz-video-upscale"},
    "common word, rare error": {"q": "castle", "errorCode": "lost"},
    "rare word, failed": {"q": "quokka", "status": "FAILED"},
    "common word, operation": {"q": "castle", "operation": "videos/edit"},
}

SCOPES: Final[Mapping[str, Mapping[str, str]]] = {
    "all teams": {"team": "*"},
    "the largest team": {"team": "scale-00"},
    "the smallest team": {"team": "scale-19"},
}


@dataclass(frozen=True)
class Visited:
    """An address, what it may take and what it took, in milliseconds."""

    name: str
    limit: float
    took: Sequence[float]

    def share(self, share: float) -> float:
        """The time that this share of all took at most."""
        return sorted(self.took)[math.ceil(len(self.took) * share) - 1]

    @property
    def is_too_slow(self) -> bool:
        """Whether one in twenty takes longer than it may: a single one may have met a vacuum."""
        return self.share(0.95) > self.limit


async def list_addresses(service: Service, *, every_scope: bool = True) -> list[tuple[str, str, float]]:
    """Every (name, address, limit) to measure, with ids and cursors of this database."""
    found = [
        (path, await fill_in(service, path), OVERVIEW_MS if path == "/ops" else PAGE_MS)
        for path, _ in PAGES
        if path != LIST
    ]
    found += [(f"/ops?window={window}", f"/ops?window={window}", OVERVIEW_MS) for window in WINDOWS]
    (middle,) = await service.rows("SELECT min(created_at) + (max(created_at) - min(created_at)) / 2 AS at FROM jobs")
    (newest,) = await service.rows(
        "SELECT id, upstream_id FROM jobs WHERE upstream_id IS NOT NULL ORDER BY id DESC LIMIT 1"
    )
    deep = {"cursor": str(Cursor(middle.at, newest.id))}
    filters = {**FILTERS, "an id": {"search": str(newest.id)}, "the upstream's id": {"search": newest.upstream_id}}
    filters |= {f"{name}, deep": {**FILTERS[name], **deep} for name in FILTERS if "absent" not in name}
    filters |= {
        "a day": {"createdAfter": f"{middle.at:%Y-%m-%d}T00:00:00Z", "createdBefore": f"{middle.at:%Y-%m-%d}T23:59:59Z"}
    }
    for path in (API, LIST) if any(path == LIST for path, _ in PAGES) else (API,):
        for scope, team in list(SCOPES.items())[: None if every_scope else 2]:
            for name, query in filters.items():
                limit = {"limit": "50"} if path == API else {}
                found.append((f"{path} {scope}, {name}", f"{path}?{urlencode({**team, **query, **limit})}", LIST_MS))
    return found


async def fill_in(service: Service, path: str) -> str:
    """A page's address with the ids of rows that there are, the newest."""
    for name in re.findall(r"\{(\w+)\}", path):
        rows = await service.rows(f"SELECT id FROM {TABLES[name]} ORDER BY id DESC LIMIT 1")
        path = path.replace(f"{{{name}}}", str(rows[0].id if rows else "none"))
    return path


async def visit(operator: Operator, address: str, times: int) -> list[float]:
    """How long an address took the server each time; for what does not say so, how long it took to be answered."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        answer = await operator.http.get(address, headers={"X-API-Key": operator.key})
        took.append((time.perf_counter() - began) * 1000)
        assert answer.status_code in (200, 404), f"{address}: {answer.status_code} {answer.text[:300]}"
        if told := re.search(r"page;dur=([\d.]+)", answer.headers.get("server-timing", "")):
            took[-1] = float(told[1])
    return took


async def measure(url: str, *, times: int, only: str = "") -> list[Visited]:
    """Visit every address so many times, after once to warm up."""
    measured = []
    with RunningSimulator(SimulatorConfig()) as simulator:
        settings = settings_for(url, simulator, loops=False)
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(running_service(settings))
            operator = await sign_in(stack, service, scopes=("ops", "admin", "read"))
            for name, address, limit in await list_addresses(service):
                if re.search(only, name) and not address.startswith(EXPORT):
                    await visit(operator, address, 1)
                    measured.append(Visited(name, limit, await visit(operator, address, times)))
                    tell(measured[-1])
    return measured


def tell(visited: Visited) -> None:
    """A line of the table."""
    figures = "".join(f"{value:9.1f}" for value in (visited.share(0.5), visited.share(0.95), max(visited.took)))
    print(f"{visited.name:70}{figures}{'   TOO SLOW' if visited.is_too_slow else ''}", flush=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", required=True)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--only", default="", help="only addresses whose name this expression is found in")
    given = parser.parse_args()
    print(f"{'ms':70}{'p50':>9}{'p95':>9}{'max':>9}")
    measured = asyncio.run(measure(given.database, times=given.times, only=given.only))
    slow = [visited.name for visited in measured if visited.is_too_slow]
    print(f"{len(measured)} addresses, {len(slow)} too slow{': ' if slow else ''}{', '.join(slow)}")
    return int(bool(slow))


if __name__ == "__main__":
    sys.exit(main())
