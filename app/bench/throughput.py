"""Rounds of webhooks and of submissions: each variant of the service between two measurements of the limit.

The variants come in another order every round. What was acknowledged is looked up before the next one begins.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from app.bench import limit
from app.bench.figures import milliseconds, percentile, ratio, rounded
from app.bench.found import Say
from app.bench.limit import Form, Kind
from app.bench.machine import cpu_seconds
from app.bench.naive import serving_naive
from app.bench.naive_books import NaiveBooks
from app.bench.plan import CONNECTIONS, Plan
from app.bench.player import Played, play
from app.bench.servers import Serving, service
from app.bench.stage import Stage
from app.bench.verify import Checked, OurBooks
from app.bench.workload import Submissions, Webhooks, Workload
from app.errors import StartupError

WARM_REQUESTS: Final = 1_000
FIRST_GUESS: Final = 8_000
"""Requests a second that are written for a first round; later ones have twice the best so far."""

FORMS: Final[tuple[Form, ...]] = ("postgres", "batched")


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to serve, and what is sent to it."""

    name: str
    serve: Callable[[Stage], AbstractAsyncContextManager[Serving]]
    workload: Workload
    least_guess: int = FIRST_GUESS


@dataclass(slots=True)
class Sample:
    """One round of one variant, and the limits just before and just after it, by their forms."""

    kind: Kind
    variant: str
    round: int
    played: Played
    cpu: dict[str, float | None]
    checked: Checked
    limits: dict[Form, list[float]] = field(default_factory=dict)

    def ratio(self, form: Form) -> float:
        """How fast this was in terms of a limit."""
        return ratio(self.played.rate, self.limits[form])

    def as_json(self) -> dict[str, Any]:
        """For the document."""
        played, latencies = self.played, self.played.latencies
        return {
            "round": self.round,
            "per_second": rounded(played.rate),
            "p50_ms": milliseconds(percentile(latencies, 0.5)),
            "p99_ms": milliseconds(percentile(latencies, 0.99)),
            "seconds": rounded(played.seconds),
            "acknowledged": len(played.acknowledged),
            "not_acknowledged": played.refused,
            "cpu_seconds": {name: None if used is None else rounded(used) for name, used in self.cpu.items()},
            "load_cpu_share": rounded(played.summary.cpu_seconds / played.summary.seconds),
            "limits": {form: [rounded(rate) for rate in rates] for form, rates in self.limits.items()},
            "ratios": {form: rounded(self.ratio(form)) for form in self.limits},
            "wrong": len(self.checked.wrong),
        }


def variants_of(kind: Kind, plan: Plan) -> list[Variant]:
    """What is measured of one kind: the service, in several processes, without its loops, and written the usual way."""
    make = Webhooks if kind == "webhook" else Submissions
    ours = make(OurBooks())

    @asynccontextmanager
    async def several(stage: Stage) -> AsyncIterator[Serving]:
        async with service(stage, workers=plan.processes) as serving:
            yield serving

    @asynccontextmanager
    async def apart(stage: Stage) -> AsyncIterator[Serving]:
        async with service(stage, loops=False) as serving:
            yield serving

    others = {
        "processes": Variant("processes", several, ours),
        "loops": Variant("without_loops", apart, ours),
        "naive": Variant("naive", serving_naive, make(NaiveBooks()), least_guess=2_000),
    }
    return [Variant("one", service, ours), *(variant for name, variant in others.items() if plan.wants(name))]


async def measure(stage: Stage, plan: Plan, kind: Kind, say: Say) -> list[Sample]:
    """All rounds of one kind."""
    samples: list[Sample] = []
    variants = variants_of(kind, plan)
    for number in range(plan.rounds):
        before = await _limits(stage, plan, kind)
        for variant in plan.shuffled(variants, f"{kind} {number}"):
            sample = await _sample(stage, plan, kind, variant, number, _guess(samples, variant))
            after = await _limits(stage, plan, kind)
            sample.limits = {form: [before[form], after[form]] for form in FORMS}
            before = after
            samples.append(sample)
            say(
                f"{kind}, round {number + 1} of {plan.rounds}, {variant.name}: {sample.played.rate:,.0f}/s, limit"
                f" {after['postgres']:,.0f}/s, batched {after['batched']:,.0f}/s: {sample.ratio('postgres'):.2f} and"
                f" {sample.ratio('batched'):.2f}"
            )
    return samples


def _guess(samples: Sequence[Sample], variant: Variant) -> int:
    seen = [sample.played.rate for sample in samples if sample.variant == variant.name]
    return int(2 * max(seen)) if seen else variant.least_guess


async def _limits(stage: Stage, plan: Plan, kind: Kind) -> dict[Form, float]:
    return {form: (await limit.measure(stage, kind, form, plan.limit_seconds)).rate for form in FORMS}


async def _sample(stage: Stage, plan: Plan, kind: Kind, variant: Variant, number: int, guess: int) -> Sample:
    warm = await variant.workload.prepare(stage, WARM_REQUESTS)
    prepared = await variant.workload.prepare(stage, max(CONNECTIONS, int(guess * plan.seconds)))
    if number == 0:
        await stage.analyze()
    async with variant.serve(stage) as serving:
        warmed = await play(serving.port, warm.requests, connections=CONNECTIONS, seconds=plan.seconds)
        await stage.settle()
        counted = {"service": serving.pid, "postgresql": stage.postmaster}
        before = {name: cpu_seconds([pid]) for name, pid in counted.items()}
        played = await play(serving.port, prepared.requests, connections=CONNECTIONS, seconds=plan.seconds)
        after = {name: cpu_seconds([pid]) for name, pid in counted.items()}
    if not played.in_time:
        raise StartupError(f"{kind}, {variant.name}: not one request was acknowledged, {played.refused:,} were not")
    checked = await warm.check(warmed.acknowledged)
    checked.add(await prepared.check(played.acknowledged))
    used = {name: _difference(before[name], after[name]) for name in counted}
    return Sample(kind, variant.name, number, played, {**used, "load": played.summary.cpu_seconds}, checked)


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
