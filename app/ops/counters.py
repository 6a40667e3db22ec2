"""Counters and histograms as Prometheus reads them, made of what all processes have measured and of what the log told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from app.context import Context
from app.measures import DISPATCH, INSTRUMENTS, SEPARATOR, Instrument
from app.models.jobs import SOURCES
from app.ops import total_queries
from app.ops.process_queries import sum_measures

MOST_LABEL_SETS: Final = 200
"""Of one counter by team and model; what is beyond goes by `other`."""

_INFINITY: Final = "+Inf"

_DURATIONS: Final = {
    "queue": (
        "framehook_job_queue_seconds",
        "How long jobs waited from their submission until the upstream took them.",
    ),
    "generation": ("framehook_job_generation_seconds", "How long completed jobs took from then until their end."),
    "webhook": (
        "framehook_webhook_lag_seconds",
        "How long after a job's end at the upstream its webhook was applied here, where it was a webhook that told of it.",
    ),
}


async def read_counters(ctx: Context) -> list[Metric]:
    """All of them, as the database has them now: any process answers the same."""
    async with ctx.db.reading() as connection:
        sums = await sum_measures(connection)
        submitted = await total_queries.list_totals_of_teams(connection, "submitted", limit=MOST_LABEL_SETS)
        ended = await total_queries.list_totals_of_teams(connection, "ended", limit=MOST_LABEL_SETS)
        totals = await total_queries.list_totals(connection, ["ended_by", *_DURATIONS])
    jobs = CounterMetricFamily(
        "framehook_jobs",
        "Jobs that ended, by status; one that ended twice counts twice.",
        labels=("status", "model", "team"),
    )
    for row in ended:
        jobs.add_metric((row.status, row.model, row.team), row.amount)
    taken = CounterMetricFamily("framehook_jobs_submitted", "Jobs that were accepted.", labels=("model", "team"))
    for row in submitted:
        taken.add_metric((row.model, row.team), row.amount)
    return [
        *(_histogram(one, sums) if one.bounds else _counter(one, sums) for one in INSTRUMENTS),
        _dispatches(sums),
        jobs,
        taken,
        _ended_by(totals["ended_by"]),
        *(_durations(*words, totals[kind]) for kind, words in _DURATIONS.items()),
    ]


def _counter(instrument: Instrument, sums: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(instrument.name, instrument.meaning, labels=(instrument.label,))
    for value in _values(instrument, f"{instrument.name}_total", sums):
        family.add_metric((value,), sums.get(SEPARATOR.join((f"{instrument.name}_total", value)), 0))
    return family


def _histogram(instrument: Instrument, sums: Mapping[str, float]) -> Metric:
    family = HistogramMetricFamily(
        instrument.name, instrument.meaning, labels=(instrument.label,) if instrument.label else ()
    )
    bounds = [*map(floatToGoString, instrument.bounds), _INFINITY]
    for value in _values(instrument, f"{instrument.name}_count", sums) if instrument.label else ("",):
        labels = (value,) if instrument.label else ()

        def at(suffix: str, *last: str, labels: tuple[str, ...] = labels) -> float:
            return sums.get(SEPARATOR.join((instrument.name + suffix, *labels, *last)), 0)

        family.add_metric(labels, [(bound, at("_bucket", bound)) for bound in bounds], at("_sum"))
    return family


def _values(instrument: Instrument, sample: str, sums: Mapping[str, float]) -> list[str]:
    """The values of an instrument's label: those that are known beforehand, and what else was measured."""
    seen = {key.split(SEPARATOR)[1] for key in sums if key.startswith(f"{sample}{SEPARATOR}")}
    return [*instrument.values, *sorted(seen - set(instrument.values))]


def _dispatches(sums: Mapping[str, float]) -> Metric:
    """How often what came of sending a job: the histogram has counted it."""
    family = CounterMetricFamily(
        "framehook_dispatches", "POSTs of jobs to the upstream, by what came of them.", labels=(DISPATCH.label,)
    )
    sample = f"{DISPATCH.name}_count"
    for value in _values(DISPATCH, sample, sums):
        family.add_metric((value,), sums.get(SEPARATOR.join((sample, value)), 0))
    return family


def _ended_by(amounts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(
        "framehook_jobs_ended",
        "Jobs that ended, by whose mouth that became known; polls are asked where webhooks were lost or late.",
        labels=("by",),
    )
    for mouth in SOURCES:
        family.add_metric((mouth,), amounts.get(mouth, 0))
    return family


def _durations(name: str, meaning: str, amounts: Mapping[str, int]) -> Metric:
    bounds = [*map(floatToGoString, total_queries.BOUNDS), _INFINITY]
    buckets, reached = [], 0
    for number, bound in enumerate(bounds):
        reached += amounts.get(str(number), 0)
        buckets.append((bound, float(reached)))
    family = HistogramMetricFamily(name, meaning)
    family.add_metric((), buckets, amounts.get("milliseconds", 0) / 1000)
    return family
