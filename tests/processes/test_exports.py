"""A million jobs are exported by a real process in little memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import asyncpg
import psutil
import pytest

from app.db import plain_url
from app.simulator.server import RunningSimulator
from tests.processes.harness import Program, client, in_front_of, ready

JOBS: Final = 1_000_000
MOST_GROWTH: Final = 50_000_000

COPY: Final = """
    INSERT INTO jobs (id, team_id, key_id, created_at, updated_at, operation, model, input, status, completed_at,
        upstream_account, wire_body)
    SELECT gen_random_uuid(), team_id, key_id, created_at - n * interval '1 s', updated_at, operation, model, input,
        'COMPLETED', now(), upstream_account, wire_body
    FROM jobs CROSS JOIN generate_series(1, $1) AS n
    """


async def multiply(database_url: str, count: int) -> None:
    """Make so many completed jobs of the one that there is."""
    connection = await asyncpg.connect(plain_url(database_url))
    try:
        await connection.execute(COPY, count, timeout=None)
        await connection.execute("VACUUM ANALYZE jobs", timeout=None)
    finally:
        await connection.close()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_million_jobs_are_exported_in_little_memory(
    launch: Callable[..., Program], simulate: Callable[..., RunningSimulator], database_url: str
) -> None:
    service = launch("serve", "--no-loops", **in_front_of(simulate(), database_url))
    with client(ready(service), timeout=120) as caller:
        body = {"model": "midjourney", "prompt": "a lighthouse"}
        accepted = caller.post("/v2/images/generate", json=body, headers={"Prefer": "respond-async"})
        assert accepted.status_code == 202, accepted.text
        asyncio.run(multiply(database_url, JOBS - 1))
        process = psutil.Process(service.pid)
        assert caller.get("/v2/jobs", params={"format": "csv", "limit": 5000}).status_code == 200
        before = most = process.memory_info().rss
        lines = 0
        with caller.stream("GET", "/v2/jobs", params={"format": "jsonl"}) as answer:
            for number, part in enumerate(answer.iter_bytes()):
                lines += part.count(b"\n")
                if number % 100 == 0:
                    most = max(most, process.memory_info().rss)
    print(f"{lines:,} jobs: {before / 1e6:.1f} MB before, {(most - before) / 1e6:.1f} MB more at most")
    assert lines == JOBS
    assert most - before < MOST_GROWTH
