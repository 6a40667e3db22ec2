"""What this process counts and times as it goes. Nothing is read or written elsewhere: `ops/processes` tells it to the rest.

Labels have few values that are known beforehand, and whoever measures does so in one line and in a microsecond or two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.requests import ClientDisconnect

SEPARATOR: Final = "\t"
"""Between the name of a sample and the values of its labels, in what `Measures.sums` answers."""

LONGEST_ERROR: Final = 200

_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_SLOW: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Instrument:
    """One thing that is measured: a histogram where it has `bounds`, else a counter. `values`: those of its label.

    The bounds of a histogram that is in use are not to be changed under the same name: what old processes have counted
    would not add up with what new ones count.
    """

    name: str
    meaning: str
    label: str = ""
    values: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


SUBMIT: Final = Instrument(
    "framehook_submit_seconds",
    "How long a submission took until it was accepted or refused, without the time that Prefer: wait asks for.",
    "answer",
    ("2xx", "4xx", "5xx"),
    _SLOW,
)
DISPATCH: Final = Instrument(
    "framehook_dispatch_seconds",
    "How long one POST of a job to the upstream took, by what came of it.",
    "outcome",
    ("accepted", "wait", "tell", "end", "pause", "respell", "wait_for_credits", "not_ours"),
    _SLOW,
)
WEBHOOK: Final = Instrument(
    "framehook_webhook_seconds", "How long it took from a webhook's receipt to the commit that keeps it.", bounds=_FAST
)
WEBHOOKS: Final = Instrument(
    "framehook_webhooks",
    "Webhooks that came in, by what was done with them.",
    "outcome",
    ("applied", "repeated", "unsigned", "wrong_signature", "unknown_token", "unknown_job", "unusable"),
)
ATTEMPTS: Final = Instrument(
    "framehook_delivery_attempts",
    "Attempts to make a delivery, by what came of them.",
    "outcome",
    ("delivered", "failed", "unreachable", "timeout", "blocked"),
)
POOL_WAIT: Final = Instrument(
    "framehook_pool_wait_seconds", "How long it took to get a connection to the database.", bounds=_FAST
)
BATCH: Final = Instrument(
    "framehook_batch_items",
    "How many calls shared one transaction, by kind of call.",
    "batch",
    bounds=(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0),
)
LOOP_ERRORS: Final = Instrument("framehook_loop_errors", "Turns of a background loop that ended in an error.", "loop")

INSTRUMENTS: Final = (SUBMIT, DISPATCH, WEBHOOK, WEBHOOKS, ATTEMPTS, POOL_WAIT, BATCH, LOOP_ERRORS)


class _Children(dict[str, Any]):
    """The parts of an instrument by the value of its label, each looked for once."""

    def __init__(self, instrument: Instrument, registry: CollectorRegistry) -> None:
        super().__init__()
        labels = (instrument.label,) if instrument.label else ()
        self._whole: Histogram | Counter = (
            Histogram(instrument.name, instrument.meaning, labels, registry=registry, buckets=instrument.bounds)
            if instrument.bounds
            else Counter(instrument.name, instrument.meaning, labels, registry=registry)
        )
        for value in instrument.values:
            self[value] = self._whole.labels(value)

    def __missing__(self, value: str) -> Any:
        child = self[value] = self._whole.labels(value) if value else self._whole
        return child


@dataclass(slots=True)
class LoopTurns:
    """How a background loop goes: when its last turn ended, how long that took, and what went wrong last."""

    every_seconds: float
    errors: Counter
    ended_at: float = field(default_factory=time.monotonic)  # or began, where no turn has ended yet
    seconds: float | None = None
    error: str | None = None
    failed_at: float | None = None

    def note(self, seconds: float, error: Exception | None) -> None:
        """A turn has ended."""
        self.ended_at, self.seconds = time.monotonic(), seconds
        if error is not None:
            self.errors.inc()
            words = str(error).splitlines() or [""]
            self.error = f"{type(error).__name__}: {words[0]}"[:LONGEST_ERROR]
            self.failed_at = self.ended_at

    def told(self) -> dict[str, Any]:
        """The same for others, whose clocks are not ours: times are told as how long ago they were."""
        now = time.monotonic()
        return {
            "every": self.every_seconds,
            "ago": round(now - self.ended_at, 3),
            "seconds": None if self.seconds is None else round(self.seconds, 4),
            "error": self.error,
            "errorAgo": None if self.failed_at is None else round(now - self.failed_at, 3),
        }


class Measures:
    """The instruments of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.loops: dict[str, LoopTurns] = {}
        parts = {instrument: _Children(instrument, self.registry) for instrument in INSTRUMENTS}
        self._submit, self._dispatch = parts[SUBMIT], parts[DISPATCH]
        self._webhook, self._webhooks = parts[WEBHOOK][""], parts[WEBHOOKS]
        self._attempts, self._batch, self._loop_errors = parts[ATTEMPTS], parts[BATCH], parts[LOOP_ERRORS]
        self.pool_waited: Callable[[float], None] = parts[POOL_WAIT][""].observe

    def submission(self) -> Submission:
        """For so long a submission is being answered. What ends it says how: an ApiError by its status."""
        return Submission(self._submit)

    def dispatched(self, outcome: str, seconds: float) -> None:
        """One POST of a job has come back, or has not."""
        self._dispatch[outcome.replace(" ", "_")].observe(seconds)

    def webhook_taken(self, outcome: str, seconds: float | None = None) -> None:
        """A webhook came in; `seconds` until the commit, where it came that far."""
        self._webhooks[outcome].inc()
        if seconds is not None:
            self._webhook.observe(seconds)

    def attempted(self, outcome: str) -> None:
        """A delivery was tried."""
        self._attempts[outcome].inc()

    def batch_sizes(self, name: str) -> Callable[[float], None]:
        """What is to be told the number of items of each transaction of one kind."""
        observe: Callable[[float], None] = self._batch[name].observe
        return observe

    def loop(self, name: str, every_seconds: float) -> LoopTurns:
        """What is to be told of each turn of a loop that begins now."""
        turns = self.loops[name] = LoopTurns(every_seconds, self._loop_errors[name])
        return turns

    def sums(self) -> dict[str, float]:
        """All samples that are not 0, by name and labels (see `SEPARATOR`); buckets are cumulative, as scraped."""
        samples: Iterable[Any] = (one for metric in self.registry.collect() for one in metric.samples)
        return {
            SEPARATOR.join((one.name, *one.labels.values())): one.value
            for one in samples
            if one.value and not one.name.endswith("_created")
        }


class Submission:
    """See `Measures.submission`. A caller that left before it had an answer is not counted."""

    __slots__ = ("_began", "_parts")

    def __init__(self, parts: _Children) -> None:
        self._parts = parts

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self._parts["2xx"].observe(time.perf_counter() - self._began)
        elif isinstance(error, Exception) and kind is not ClientDisconnect:
            answer = f"{getattr(error, 'status', 500) // 100}xx"
            self._parts[answer].observe(time.perf_counter() - self._began)
