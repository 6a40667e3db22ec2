"""The limit: how often PostgreSQL itself commits the reference's statements, asked by pgbench over the same socket.

Every transaction finds a job of its own, and afterwards as much must be there as was counted.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sqlalchemy import text

from app import embedded
from app.bench import payloads
from app.bench.plan import BATCH, LIMIT_CLIENTS
from app.bench.player import finish
from app.bench.stage import Stage
from app.errors import StartupError

Kind = Literal["webhook", "submit"]
Form = Literal["postgres", "batched"]

REFERENCE: Final = Path(__file__).parent / "reference"

POOL_PER_SECOND: Final = {"postgres": 20_000, "batched": 60_000}
"""So many jobs are there for each second: more than are completed."""

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
    """Run the reference for so long: one transaction each by `clients`, or batches of `BATCH` on one connection."""
    batch = BATCH if form == "batched" else 1
    clients = 1 if form == "batched" else clients
    await _fill(stage, kind, int(POOL_PER_SECOND[form] * seconds))
    payload = payloads.webhook("0" * 32).decode() if kind == "webhook" else payloads.submission().decode()
    script = f"{kind}_batch" if form == "batched" else kind
    found = await _run_pgbench(
        stage,
        script,
        seconds,
        clients,
        payload=payload if batch == 1 else array_literal([payload] * batch),
        batch=batch,
    )
    async with stage.db.reading() as connection:
        kept = int(await connection.scalar(_COUNT[kind]) or 0)
    if kept != found.count:
        raise StartupError(f"the limit cannot be measured: {found.count:,} of {kind} were counted, {kept:,} are there")
    return found


async def _fill(stage: Stage, kind: Kind, count: int) -> None:
    async with stage.db.transaction() as tx:
        await tx.exec_driver_sql(_RESET)
        if kind == "webhook":
            await tx.execute(_FILL, {"payload": payloads.submission().decode(), "count": count})
    async with stage.db.reading() as connection:
        await connection.exec_driver_sql("VACUUM ANALYZE reference.jobs")
    await stage.settle()


async def _run_pgbench(stage: Stage, script: str, seconds: float, clients: int, *, payload: str, batch: int) -> Limited:
    pgbench = find_pgbench()
    if pgbench is None:
        raise StartupError("there is no pgbench")
    values = {"first": 1, "turn": 0, "clients": clients, "batch": batch, "payload": payload}
    options = [part for name, value in values.items() for part in ("-D", f"{name}={value}")]
    threads = str(min(clients, os.cpu_count() or 1))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
    said = await finish(
        [
            *(str(pgbench), "-n", "-M", "prepared", "-h", stage.socket_dir, "-p", "5432", "-U", "framehook"),
            *("-c", str(clients), "-j", threads, "-T", str(max(1, round(seconds)))),
            *("-f", str(REFERENCE / f"{script}.sql"), *options, "framehook"),
        ],
        environment=environment,
    )
    return _read(said.decode(), batch)


def _read(said: str, batch: int) -> Limited:
    count, rate, latency = (pattern.search(said) for pattern in (_PROCESSED, _RATE, _LATENCY))
    if count is None or rate is None or latency is None:
        raise StartupError(f"pgbench says something else than it did: {said[:300]}")
    return Limited(rate=float(rate[1]) * batch, count=int(count[1]) * batch, mean_ms=float(latency[1]))


def array_literal(texts: Sequence[str]) -> str:
    """An array of texts as PostgreSQL writes it."""
    quoted = (text_.replace("\\", "\\\\").replace('"', '\\"') for text_ in texts)
    return "{" + ",".join(f'"{each}"' for each in quoted) + "}"
