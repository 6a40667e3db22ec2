"""What a monitoring system scrapes: how things stand, and what all processes have counted, so that any one tells for all.

Each scrape has a registry of its own, and everything in it comes from the database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from app import partitions
from app.context import Context
from app.ops import watch_queries
from app.ops.counters import read_counters
from app.ops.status import (
    Keeping,
    KeyHealth,
    Load,
    Telling,
    read_cap,
    read_keeping,
    read_keys,
    read_load,
    read_telling,
)
from app.ops.watching import LogSeen, ProcessSeen, freshest, read_log, read_oldest_retry, read_processes
from app.teams.ledger import month_of

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text format that every Prometheus reads (Prometheus documentation, exposition formats)."""

HINDRANCES: Final = ("held", "probing")
ROLES: Final = ("serve", "worker")
MOST_BUDGETS: Final = 200


@dataclass(frozen=True, slots=True, eq=False)
class _Ready(Collector):
    """Metrics that are made already."""

    metrics: Sequence[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.metrics


async def render_metrics(ctx: Context) -> bytes:
    """All metrics as of now, in Prometheus' text format."""
    registry = CollectorRegistry()
    _set_load(registry, await read_load(ctx), await read_cap(ctx))
    _set_telling(registry, await read_telling(ctx), await read_oldest_retry(ctx))
    _set_keeping(registry, await read_keeping(ctx))
    _set_keys(registry, await read_keys(ctx))
    _set_processes(registry, await read_processes(ctx))
    _set_log(registry, await read_log(ctx))
    await _set_rest(registry, ctx)
    registry.register(_Ready(await read_counters(ctx)))
    return generate_latest(registry)


def _set_load(registry: CollectorRegistry, load: Load, cap: int) -> None:
    for name, meaning, value in (
        ("framehook_jobs_cap", "How many jobs may hold a slot at the upstream.", cap),
        ("framehook_jobs_waiting", "Jobs that wait to be sent; counted up to 10,000.", load.waiting),
        ("framehook_jobs_in_flight", "Jobs that hold a slot at the upstream.", load.in_flight),
        (
            "framehook_jobs_ambiguous",
            "Jobs in flight of which the upstream has not said that it has them.",
            load.ambiguous,
        ),
        ("framehook_jobs_overdue", "Jobs that take longer than they should; counted up to 10,000.", load.overdue),
        (
            "framehook_oldest_waiting_seconds",
            "How long ago the oldest job that waits was submitted; 0 if none waits.",
            load.oldest_waiting_seconds or 0,
        ),
    ):
        Gauge(name, meaning, registry=registry).set(value)


def _set_telling(registry: CollectorRegistry, telling: Telling, oldest_retry_seconds: float) -> None:
    for name, meaning, value in (
        (
            "framehook_oldest_retry_seconds",
            "How long ago the oldest delivery that was tried before should have been tried again; 0 if none is late.",
            oldest_retry_seconds,
        ),
        (
            "framehook_deliveries_pending",
            "Deliveries that are yet to be made, for the first time or again; counted up to 10,000.",
            telling.pending,
        ),
        (
            "framehook_deliveries_undelivered",
            "Deliveries that ended without success and are kept; counted up to 10,000.",
            telling.undelivered,
        ),
        (
            "framehook_oldest_due_seconds",
            "How long ago the oldest pending delivery should have been made; 0 if none is late.",
            telling.oldest_due_seconds or 0,
        ),
        (
            "framehook_subscriptions_disabled",
            "Subscriptions that get nothing until they are enabled again.",
            telling.disabled_subscriptions,
        ),
    ):
        Gauge(name, meaning, registry=registry).set(value)


def _set_keeping(registry: CollectorRegistry, keeping: Keeping) -> None:
    for name, meaning, value in (
        ("framehook_files_pending", "Result files that are yet to be kept; counted up to 10,000.", keeping.pending),
        (
            "framehook_files_late",
            "Of these, how many the upstream has yet to purge, within four hours; counted up to 10,000.",
            keeping.late,
        ),
        ("framehook_files_failed", "Result files that could not be kept; counted up to 10,000.", keeping.failed),
        (
            "framehook_oldest_pending_file_seconds",
            "How long ago the job ended that has waited longest for its files to be kept; 0 if none waits.",
            keeping.oldest_pending_seconds or 0,
        ),
    ):
        Gauge(name, meaning, registry=registry).set(value)


def _set_keys(registry: CollectorRegistry, keys: Sequence[KeyHealth]) -> None:
    gauge = Gauge(
        "framehook_dispatch_held",
        "1 where an upstream key is held back, or probing: one job goes ahead of the others.",
        ("key", "state"),
        registry=registry,
    )
    for key in keys:
        for state in HINDRANCES:
            gauge.labels(key=key.fingerprint, state=state).set(key.state == state)


def _set_processes(registry: CollectorRegistry, processes: Sequence[ProcessSeen]) -> None:
    roles = Counter(process.row.role for process in processes)
    gauge = Gauge("framehook_processes", "Processes that were seen within a minute.", ("role",), registry=registry)
    for role in ROLES:
        gauge.labels(role).set(roles[role])
    pool_size, in_use = (sum(getattr(one.row, name) for one in processes) for name in ("pool_size", "pool_in_use"))
    Gauge(
        "framehook_pool_size", "Connections to the database that all processes together may have.", registry=registry
    ).set(pool_size)
    Gauge("framehook_pool_in_use", "Those that were in use when each process last said.", registry=registry).set(in_use)
    age = Gauge(
        "framehook_loop_age_seconds",
        "How long ago any process last ended a turn of a background loop; none: no process runs it.",
        ("loop",),
        registry=registry,
    )
    interval = Gauge(
        "framehook_loop_interval_seconds",
        "How often a background loop has a turn, if nothing wakes it before.",
        ("loop",),
        registry=registry,
    )
    for name, loop in freshest(processes).items():
        age.labels(name).set(loop.seconds_ago)
        interval.labels(name).set(loop.every_seconds)


def _set_log(registry: CollectorRegistry, log: LogSeen) -> None:
    events = Gauge(
        "framehook_log_lag_events",
        "Events of the log that a reader of ours has yet to read, at most.",
        ("reader",),
        registry=registry,
    )
    seconds = Gauge(
        "framehook_log_lag_seconds",
        "How old the first event is that a reader of ours has yet to read; 0 if there is none.",
        ("reader",),
        registry=registry,
    )
    for reader in log.readers:
        events.labels(reader.name).set(reader.behind)
        seconds.labels(reader.name).set(reader.behind_seconds)


async def _set_rest(registry: CollectorRegistry, ctx: Context) -> None:
    now = ctx.now()
    async with ctx.db.reading() as connection:
        days_ahead = await partitions.count_days_ahead(connection, now)
        budgets = await watch_queries.list_budgets(connection, month_of(now), limit=MOST_BUDGETS)
    for name, meaning, value in (
        (
            "framehook_partitions_days_ahead",
            "For how many days after today all partitions exist; below 3 the service is not ready, below 0 it fails.",
            days_ahead,
        ),
        (
            "framehook_poll_only",
            "1 where no webhooks are asked for, so that jobs end by polls.",
            ctx.settings.poll_only,
        ),
    ):
        Gauge(name, meaning, registry=registry).set(value)
    used = Gauge(
        "framehook_budget_used_ratio",
        "Which part of its budget of this month a team has reserved and spent.",
        ("team",),
        registry=registry,
    )
    for row in budgets:
        used.labels(row.team).set(row.used)
