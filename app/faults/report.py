"""The numbers of a run, the table that shows them, and the progress while it lasts.

A number that must be zero and is not makes the whole report wrong, whatever the others are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from app.faults.compare import Findings
from app.faults.plan import Plan

SHOWN_FINDINGS: Final = 5
"""Of each kind; the evidence has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run came to. `kills` counts by kind."""

    plan: Plan
    seconds: float
    acknowledged: int
    ended: Mapping[str, int]  # our jobs by the final status that the upstream confirms
    webhooks_acknowledged: int
    events: int
    deliveries: int  # those that the subscriber failed among them
    repeats: int  # submissions that callers sent again
    replays: int  # submissions that reached the upstream again and made no new job there
    unexpected_answers: Mapping[int, int]
    kills: Mapping[str, int]
    ended_by_themselves: int
    findings: Findings
    evidence: str | None = None

    @property
    def zeros(self) -> dict[str, int]:
        """The numbers that must be zero."""
        return {
            "never acknowledged": len(self.findings.unacknowledged),
            "lost": len(self.findings.lost),
            "paid twice": len(self.findings.paid_twice),
            "stuck": len(self.findings.stuck),
            "webhooks acknowledged and not applied": len(self.findings.not_applied),
            "events that the subscriber was not told": len(self.findings.not_told),
            "jobs billed wrongly": len(self.findings.billed_wrongly),
            "answers that are neither 202 nor 503": sum(self.unexpected_answers.values()),
            "kills that were not made": self.plan.kills - sum(self.kills.values()),
        }

    @property
    def wrong(self) -> bool:
        """Whether any of them is not."""
        return any(self.zeros.values())

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        numbers = {name.replace(" ", "_"): number for name, number in self.zeros.items()}
        return {
            **asdict(self.plan),
            "seconds": self.seconds,
            "submitted": self.plan.jobs,
            "acknowledged": self.acknowledged,
            **{status.lower(): self.ended.get(status, 0) for status in ("COMPLETED", "FAILED", "CANCELLED")},
            "webhooks_acknowledged": self.webhooks_acknowledged,
            "events": self.events,
            "deliveries": self.deliveries,
            "submissions_repeated_by_callers": self.repeats,
            "submissions_repeated_upstream": self.replays,
            "processes_ended_by_themselves": self.ended_by_themselves,
            "kills_by_kind": dict(self.kills),
            "unexpected_answers": dict(self.unexpected_answers),
            "must_be_zero": numbers,
            "wrong": self.wrong,
            "findings": asdict(self.findings),
            "evidence": self.evidence,
        }


def show(report: Report, out: Console) -> None:
    """Print the table, the first findings of each kind, and where the evidence is."""
    table = Table("", "", box=None, pad_edge=False, show_header=False)
    table.columns[1].justify = "right"
    for name, number in _rows(report).items():
        table.add_row(name, f"{number:,}")
    for name, number in report.zeros.items():
        table.add_row(f"[bold]{name}[/] (must be 0)", f"[bold {'red' if number else 'green'}]{number:,}[/]")
    out.print(table)
    for lines in asdict(report.findings).values():
        for line in lines[:SHOWN_FINDINGS]:
            out.print(f"[red]{escape(line)}[/]", soft_wrap=True)
    minutes, seconds = divmod(round(report.seconds), 60)
    out.print(f"{'Wrong' if report.wrong else 'All is well'}, after {minutes} min {seconds} s.")
    if report.evidence:
        out.print(f"Its data, its logs and what everybody said are in {report.evidence}", markup=False, soft_wrap=True)


def _rows(report: Report) -> dict[str, int]:
    names = {"service": "service", "worker": "worker", "postmaster": "PostgreSQL", "everything": "everything at once"}
    return {
        "submitted": report.plan.jobs,
        "acknowledged (202)": report.acknowledged,
        "completed": report.ended.get("COMPLETED", 0),
        "failed, as the upstream says": report.ended.get("FAILED", 0),
        "cancelled, as the upstream says": report.ended.get("CANCELLED", 0),
        "webhooks acknowledged": report.webhooks_acknowledged,
        "events": report.events,
        "deliveries to the subscriber": report.deliveries,
        "submissions repeated by callers": report.repeats,
        "submissions repeated upstream": report.replays,
        "kills": sum(report.kills.values()),
        **{f"  of them {name}": report.kills.get(kind, 0) for kind, name in names.items()},
        "processes that ended by themselves": report.ended_by_themselves,
    }


class Progress:
    """Bars on a terminal; elsewhere a line for every kill and every tenth of the submissions."""

    def __init__(self, plan: Plan, out: Console) -> None:
        self._plan = plan
        self._out = out
        self._acknowledged = 0
        self._kills = 0
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=out,
            transient=True,
            disable=not out.is_terminal,
        )
        self._submissions = self._bars.add_task("acknowledged", total=plan.jobs)
        self._strikes = self._bars.add_task("kills", total=plan.kills)
        self._unended = self._bars.add_task("ended", total=plan.jobs, visible=False)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def acknowledged(self) -> None:
        """One more submission was answered 202."""
        self._acknowledged += 1
        self._bars.advance(self._submissions)
        tenth = max(1, self._plan.jobs // 10)
        if not self._out.is_terminal and self._acknowledged % tenth == 0:
            self._out.print(f"{self._acknowledged:,} of {self._plan.jobs:,} acknowledged")

    def killed(self, who: str) -> None:
        """One more kill was made."""
        self._kills += 1
        self._bars.advance(self._strikes)
        self._out.print(
            f"[dim]kill {self._kills} of {self._plan.kills}: {who}, at {self._acknowledged:,} acknowledged[/]"
        )

    def draining(self, unended: int) -> None:
        """So many jobs have yet to end."""
        self._bars.update(self._unended, completed=self._plan.jobs - unended, visible=True)
