"""Where there is no pgbench, the same statements are run by asyncpg, and are there as often as they were counted."""

from __future__ import annotations

import asyncpg
import pytest

from app.bench import driver, payloads
from app.bench.limit import REFERENCE, read_statements


def test_a_script_becomes_one_statement_with_its_parameters_in_order() -> None:
    statement, names = driver.read_script(REFERENCE / "submit_batch.sql")
    assert names == ["job", "payload"]
    assert "\\set" not in statement
    assert "CAST($1 AS bigint)" in statement
    assert "CAST($2 AS text[])" in statement


@pytest.mark.parametrize("script", ["webhook", "submit", "webhook_batch", "submit_batch"])
async def test_every_transaction_that_is_counted_finds_work_of_its_own(empty_database_url: str, script: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        for statement in read_statements("schema"):
            await connection.execute(statement)
        if "webhook" in script:
            await connection.execute(
                "INSERT INTO reference.jobs (key, status, input)"
                " SELECT 'key ' || n, 'PROCESSING', '{}' FROM generate_series(1, 20000) AS n"
            )
        sent = [payloads.webhook("0" * 32).decode()] * (8 if "batch" in script else 1)
        count, latencies = await driver.run(empty_database_url, REFERENCE / f"{script}.sql", 0.1, 2, payloads=sent)
        table = "deliveries" if "webhook" in script else "jobs"
        assert await connection.fetchval(f"SELECT count(*) FROM reference.{table}") == count * len(sent) > 0
        assert len(latencies) == count
    finally:
        await connection.close()
