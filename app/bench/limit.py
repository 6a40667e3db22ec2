"""The limit: how often PostgreSQL itself commits the reference's statements, asked by pgbench over the same socket.

Every transaction finds a job of its own, and afterwards as much must be there as was counted.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sqlalchemy import text

from app import embedded
from app.bench import driver, payloads
from app.bench.figures import percentile
from app.bench.plan import BATCH, LIMIT_CLIENTS
from app.bench.player import finish
from app.bench.stage import Stage
from app.errors import StartupError

Kind = Literal["webhook", "submit"]
Form = Literal["postgres", "batched"]

REFERENCE: Final = Path(__file__).parent / "reference"

POOL_PER_SECOND: Final = {"postgres": 10_000, "batched": 25_000}
"""So many jobs are there for each second at first, and twice as many where they were used up."""

_RESET: Final = "TRUNCATE reference.jobs, reference.events, reference.deliveries RESTART IDENTITY"
_FILL: Final = text(
    """
    INSERT INTO reference.jobs (key, status, input)
    SELECT 'bench-' || number, 'PROCESSING', CAST(:payload AS jsonb) FROM generate_series(1, :count) AS number
    """
)
_COUNT: Final = {
    "webhook": text(
        """
        SELECT least(
            (SELECT count(*) FROM reference.jobs WHERE status = 'COMPLETED'),
            (SELECT count(*) FROM reference.events), (SELECT count(*) FROM reference.deliveries)
        )
        """
    ),
    "submit": text("SELECT count(*) FROM reference.jobs"),
}

_PROCESSED: Final = re.compile(r"number of transactions actually processed: (\d+)")
_RATE: Final = re.compile(r"tps = ([\d.]+)")
_LATENCY: Final = re.compile(r"latency average = ([\d.]+) ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited:
    """What PostgreSQL did: webhooks or submissions a second, and the mean of a transaction's latency."""

    rate: float
    count: int
    mean_ms: float
    median_ms: float | None = None


def find_pgbench() -> Path | None:
    """The pgbench of the embedded PostgreSQL, or else one that is on the PATH."""
    own = embedded.find_binaries() / "pgbench"
    if os.access(own, os.X_OK):
        return own
    found = shutil.which("pgbench")
    return Path(found) if found else None


async def make_reference(stage: Stage) -> None:
    """Make the reference's tables."""
    async with stage.db.transaction() as tx:
        await tx.exec_driver_sql("SET LOCAL client_min_messages = warning")
        for statement in read_statements("schema"):
            await tx.exec_driver_sql(statement)


def read_statements(name: str) -> list[str]:
    """The statements of one of the reference's files."""
    return [part.strip() for part in (REFERENCE / f"{name}.sql").read_text().split(";") if part.strip()]


async def measure(stage: Stage, kind: Kind, form: Form, seconds: float, *, clients: int = LIMIT_CLIENTS) -> Limited:
    """Run the reference for so long: one transaction each by `clients`, or batches of `BATCH` on one connection.

    Raises StartupError where another number is there afterwards than was counted.
    """
    batch = BATCH if form == "batched" else 1
    clients = 1 if form == "batched" else clients
    payload = payloads.webhook("0" * 32).decode() if kind == "webhook" else payloads.submission().decode()
    script = REFERENCE / (f"{kind}_batch.sql" if form == "batched" else f"{kind}.sql")
    pool = int(POOL_PER_SECOND[form] * seconds)
    while True:
        await _fill(stage, kind, pool)
        found = await _run(stage, script, seconds, clients, [payload] * batch)
        async with stage.db.reading() as connection:
            kept = int(await connection.scalar(_COUNT[kind]) or 0)
        if kept == found.count:
            return found
        # One client may be ahead of the others, and out of jobs before they are.
        if kind == "submit" or found.count < 0.8 * pool:
            raise StartupError(f"the limit cannot be measured: {found.count:,} were counted, {kept:,} are there")
        pool *= 2


async def _fill(stage: Stage, kind: Kind, count: int) -> None:
    async with stage.db.transaction() as tx:
        await tx.exec_driver_sql(_RESET)
        if kind == "webhook":
            await tx.execute(_FILL, {"payload": payloads.submission().decode(), "count": count})
    async with stage.db.reading() as connection:
        await connection.exec_driver_sql("VACUUM ANALYZE reference.jobs")
    await stage.settle()


async def describe_driver() -> str:
    """Who measures the limit, in words."""
    pgbench = find_pgbench()
    if pgbench is None:
        return "asyncpg in one Python process, since there is no pgbench: the limit is lower than it would be"
    return (await finish([str(pgbench), "--version"], environment=_environment())).decode().strip()


async def _run(stage: Stage, script: Path, seconds: float, clients: int, sent: Sequence[str]) -> Limited:
    pgbench = find_pgbench()
    if pgbench is None:
        count, latencies = await driver.run(stage.database_url, script, seconds, clients, payloads=sent)
        count *= len(sent)
        median, mean = percentile(latencies, 0.5) * 1000, statistics.fmean(latencies) * 1000
        return Limited(rate=count / seconds, count=count, mean_ms=mean, median_ms=median)
    return await _run_pgbench(pgbench, stage, script, max(1, round(seconds)), clients, sent)


async def _run_pgbench(
    pgbench: Path, stage: Stage, script: Path, seconds: int, clients: int, sent: Sequence[str]
) -> Limited:
    payload = sent[0] if len(sent) == 1 else array_literal(sent)
    values = {"first": 1, "turn": 0, "clients": clients, "batch": len(sent), "payload": payload}
    options = [part for name, value in values.items() for part in ("-D", f"{name}={value}")]
    with tempfile.TemporaryDirectory(prefix="framehook-bench-limit-") as folder:
        # To write a line for each transaction costs nothing where there is one at a time, and something where there are 32.
        logged = ["-l", f"--log-prefix={folder}/log"] if clients == 1 else []
        said = await finish(
            [
                *(str(pgbench), "-n", "-M", "prepared", "-h", stage.socket_dir, "-p", "5432", "-U", "framehook"),
                *("-c", str(clients), "-j", str(min(clients, os.cpu_count() or 1)), "-T", str(seconds), *logged),
                *("-f", str(script), *options, "framehook"),
            ],
            environment=_environment(),
        )
        lines = [line for log in Path(folder).iterdir() for line in log.read_text().splitlines()]  # noqa: ASYNC240 - local, and nothing else runs
    return _read(said.decode(), len(sent), [int(line.split()[2]) for line in lines])


def _environment() -> dict[str, str]:
    """PGHOST and its like are meant for other servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _read(said: str, batch: int, microseconds: Sequence[int]) -> Limited:
    count, rate, latency = (pattern.search(said) for pattern in (_PROCESSED, _RATE, _LATENCY))
    if count is None or rate is None or latency is None:
        raise StartupError(f"pgbench says something else than it did: {said[:300]}")
    return Limited(
        rate=float(rate[1]) * batch,
        count=int(count[1]) * batch,
        mean_ms=float(latency[1]),
        median_ms=statistics.median(microseconds) / 1000 if microseconds else None,
    )


def array_literal(texts: Sequence[str]) -> str:
    """An array of texts as PostgreSQL writes it."""
    quoted = (text_.replace("\\", "\\\\").replace('"', '\\"') for text_ in texts)
    return "{" + ",".join(f'"{each}"' for each in quoted) + "}"
