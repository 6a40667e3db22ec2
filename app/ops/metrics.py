"""What a monitoring system scrapes: the state of the database as gauges, so that every process tells the same.

Each scrape has a registry of its own, and nothing is counted in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from app.context import Context
from app.ops.status import (
    Keeping,
    KeyHealth,
    Load,
    Telling,
    read_keeping,
    read_keys,
    read_load,
    read_telling,
)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text format that every Prometheus reads (Prometheus documentation, exposition formats)."""

HINDRANCES: Final = ("held", "probing")


async def render_metrics(ctx: Context) -> bytes:
    """All gauges as of now, in Prometheus' text format."""
    registry = CollectorRegistry()
    _set_load(registry, await read_load(ctx))
    _set_telling(registry, await read_telling(ctx))
    _set_keeping(registry, await read_keeping(ctx))
    _set_keys(registry, await read_keys(ctx))
    return generate_latest(registry)


def _set_load(registry: CollectorRegistry, load: Load) -> None:
    for name, meaning, value in (
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


def _set_telling(registry: CollectorRegistry, telling: Telling) -> None:
    for name, meaning, value in (
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
