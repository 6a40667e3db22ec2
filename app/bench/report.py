"""What a run found: one JSON document, and the same as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.bench.figures import percentile, rounded, spread
from app.bench.found import Found
from app.bench.limit import Form, Kind
from app.bench.plan import Plan
from app.bench.throughput import Sample
from app.bench.verify import Checked

SHOWN_FINDINGS: Final = 10
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
            self.figures[f"{kind}_vs_{form}"] = rounded(spread(sample.ratio(form) for sample in one).median)
        self.figures[f"{kind}_per_second"] = rounded(spread(sample.played.rate for sample in one).median)
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            latency = spread(percentile(sample.played.latencies, share) * 1000 for sample in one)
            self.figures[f"{kind}_{name}_ms"] = rounded(latency.median)
        self.raw[kind] = {name: _raw(found, forms) for name, found in variants.items()}
        for name, variant in COMPARED.items():
            if variant in variants:
                self._compare(kind, name, variants[variant], one)

    def add(self, name: str, found: Found) -> None:
        """Take in what another measure found."""
        self.figures |= found.figures
        self.raw[name] = found.raw
        self.checked.add(found.checked)

    def _compare(self, kind: Kind, name: str, these: Sequence[Sample], those: Sequence[Sample]) -> None:
        """Compare two variants by what they are in terms of the limits beside them."""
        found = [a.ratio("postgres") / b.ratio("postgres") for a, b in zip(these, those, strict=True)]
        self.figures.setdefault(name, {})[kind] = rounded(spread(found).median)

    def as_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "ok": not self.wrong,
            **self.figures,
            "acknowledged": self.checked.acknowledged,
            "wrong": self.checked.wrong,
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
    table = Table("", "", box=None, pad_edge=False, show_header=False)
    table.columns[1].justify = "right"
    for name, value in report.figures.items():
        if isinstance(value, dict):
            for part, number in value.items():
                table.add_row(f"{name} ({part})", _shown(number))
        else:
            table.add_row(name, _shown(value))
    out.print(table)
    for line in report.checked.wrong[:SHOWN_FINDINGS]:
        out.print(f"[red]{escape(line)}[/]", soft_wrap=True)
    verdict = f"{len(report.checked.wrong):,} are wrong" if report.wrong else "each is there exactly once"
    out.print(f"{report.checked.acknowledged:,} acknowledgements were looked up: {verdict}.")
    out.print(f"Limit by {report.driver}, seed {report.plan.seed}, {report.seconds:.0f} s.", markup=False)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,g}"
