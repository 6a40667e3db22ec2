"""What a run found: one JSON document, and the same as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.bench.figures import Spread, percentile, rounded, spread
from app.bench.found import Found
from app.bench.limit import Form, Kind
from app.bench.plan import Plan
from app.bench.throughput import Sample
from app.bench.verify import Checked

SHOWN_FINDINGS: Final = 10
BUSY: Final = 0.5
"""A load average for each core above which something else was running when the run began."""

NOTES: Final = (
    "The limit: one webhook or submission in a transaction by 32 clients (postgres), or 32 in each on one (batched).",
    "Its tables are emptied before each measurement, the service's are not.",
    "The service: `framehook serve` with its loops and default settings, but that result files are not kept.",
    "Webhooks: signed, each completes a job and makes an event and a delivery to a subscriber.",
    "A rate limit of one a minute holds those deliveries back: sending is measured apart.",
    "Submissions: with an Idempotency-Key and Prefer: respond-async, while dispatch is paused.",
    "Ratios of two variants are of what they are in terms of the limits beside them; naive_vs_ours is theirs by ours.",
)
"""What ran, for whoever reads the figures elsewhere."""

COMPARED: Final = {
    "two_processes_vs_one": "processes",
    "without_loops_vs_one": "without_loops",
    "naive_vs_ours": "naive",
}


@dataclass(slots=True)
class Report:
    """The figures by their names, what each of them was made of, and what was found wrong."""

    plan: Plan
    machine: dict[str, Any]
    driver: str
    figures: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)
    checked: Checked = field(default_factory=Checked)
    seconds: float = 0.0
    spreads: dict[str, Spread] = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        """Whether anything that was acknowledged is not there exactly once."""
        return bool(self.checked.wrong)

    def add_rounds(self, kind: Kind, samples: Sequence[Sample]) -> None:
        """Take in the rounds of one kind."""
        for sample in samples:
            self.checked.add(sample.checked)
        variants = {sample.variant: [one for one in samples if one.variant == sample.variant] for sample in samples}
        one = variants["one"]
        forms: tuple[Form, ...] = ("postgres", "batched")
        for form in forms:
            self._note(f"{kind}_vs_{form}", spread(sample.ratio(form) for sample in one))
        self._note(f"{kind}_per_second", spread(sample.played.rate for sample in one))
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            latency = spread(percentile(sample.played.latencies, share) * 1000 for sample in one)
            self._note(f"{kind}_{name}_ms", latency)
        self.raw[kind] = {name: _raw(found, forms) for name, found in variants.items()}
        for name, variant in COMPARED.items():
            if variant in variants:
                self._compare(kind, name, variants[variant], one)

    def add(self, name: str, found: Found) -> None:
        """Take in what another measure found."""
        self.figures |= found.figures
        self.raw[name] = found.raw
        self.spreads |= found.spreads
        self.checked.add(found.checked)

    def _compare(self, kind: Kind, name: str, these: Sequence[Sample], those: Sequence[Sample]) -> None:
        """Compare two variants by what they are in terms of the limits beside them."""
        found = spread(a.ratio("postgres") / b.ratio("postgres") for a, b in zip(these, those, strict=True))
        self.figures.setdefault(name, {})[kind] = rounded(found.median)
        self.spreads[f"{name} ({kind})"] = found

    def _note(self, name: str, found: Spread) -> None:
        self.figures[name] = rounded(found.median)
        self.spreads[name] = found

    def as_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "ok": not self.wrong,
            **self.figures,
            "acknowledged": self.checked.acknowledged,
            "wrong": self.checked.wrong,
            "notes": list(NOTES),
            "spreads": {name: found.as_json() for name, found in self.spreads.items()},
            "limit_driver": self.driver,
            "seed": self.plan.seed,
            "machine": self.machine,
            "options": {
                "seconds": self.plan.seconds,
                "rounds": self.plan.rounds,
                "processes": self.plan.processes,
                "quick": self.plan.quick,
                "only": list(self.plan.only),
            },
            "took_seconds": self.seconds,
            "raw": self.raw,
        }


def _raw(samples: Sequence[Sample], forms: Sequence[Form]) -> dict[str, Any]:
    return {
        "per_second": spread(sample.played.rate for sample in samples).as_json(),
        "limits": {
            form: spread(rate for sample in samples for rate in sample.limits[form]).as_json() for form in forms
        },
        "ratios": {form: spread(sample.ratio(form) for sample in samples).as_json() for form in forms},
        "rounds": [sample.as_json() for sample in samples],
    }


def show(report: Report, out: Console) -> None:
    """Print the figures, and the first of what is wrong."""
    table = Table("", "median", "least to greatest", box=None, pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    for name, value in report.figures.items():
        several = (
            {f"{name} ({part})": number for part, number in value.items()} if isinstance(value, dict) else {name: value}
        )
        for line, number in several.items():
            found = report.spreads.get(line)
            between = f"{_shown(rounded(found.least))} to {_shown(rounded(found.greatest))}" if found else ""
            table.add_row(line, _shown(number), between)
    out.print(table)
    for line in report.checked.wrong[:SHOWN_FINDINGS]:
        out.print(f"[red]{escape(line)}[/]", soft_wrap=True)
    verdict = f"{len(report.checked.wrong):,} are wrong" if report.wrong else "each is there exactly once"
    out.print(f"{report.checked.acknowledged:,} acknowledgements were looked up: {verdict}.")
    for note in NOTES:
        out.print(f"[dim]{escape(note)}[/]", soft_wrap=True)
    if (load := report.machine.get("load_average", 0)) > BUSY * (report.machine["cores"] or 1):
        out.print(f"[yellow]The machine was busy before (load {load:.1f}): these figures are not its own.[/]")
    out.print(f"Limit by {report.driver}, seed {report.plan.seed}, {report.seconds:.0f} s.", markup=False)


def _rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """Figures by their names; those of webhooks and of submissions under one name each as one."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from ((f"{name} ({part})", number) for part, number in value.items())
        else:
            yield name, value


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,g}"
