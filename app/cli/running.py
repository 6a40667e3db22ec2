"""Commands that run the service, show it off, put it to the test, or hold its dispatch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app import migrate as migrations
from app import serving
from app.bench import plan as bench_plan
from app.bench import report as bench_report
from app.bench import run as bench_run
from app.cli.terminal import AsJson, out, read_settings, run
from app.config import Settings
from app.context import open_context, open_database
from app.demo import run as demonstration
from app.errors import StartupError
from app.faults import report as faults_report
from app.faults import run as faults_run
from app.faults.plan import Plan
from app.jobs import upstream
from app.ops import doctor as checks
from app.simulator import server as simulator
from app.simulator.config import SimulatorConfig


def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind (FRAMEHOOK_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind (FRAMEHOOK_PORT).")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that answer requests.")] = 1,
    loops: Annotated[bool, typer.Option("--loops/--no-loops", help="Run the background loops here too.")] = True,
    migrate: Annotated[bool, typer.Option("--migrate", help="Migrate an external database first.")] = False,
) -> None:
    """Serve the API and run the background loops."""
    settings = read_settings(host=host, port=port, loops=None if loops else False)
    serving.serve(settings, workers=workers, migrate_first=migrate)


def worker(
    with_stdin: Annotated[
        bool,
        typer.Option(
            "--with-stdin", help="End when standard input does: when whoever started this is gone, however that came."
        ),
    ] = False,
) -> None:
    """Run the background loops without the API."""
    serving.work(read_settings(), with_stdin=with_stdin)


def migrate() -> None:
    """Bring the database to this version's schema. Safe to run in several places at once."""

    async def work(settings: Settings) -> str | None:
        async with open_database(settings) as database:
            await migrations.upgrade(database)
            return await migrations.current_revision(database)

    out.print(f"The database is at revision [bold]{run(work(read_settings()))}[/].")


def simulate(
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind.")] = 8001,
    key: Annotated[str, typer.Option(help="The API key it accepts.")] = SimulatorConfig().api_keys[0],
    seed: Annotated[int, typer.Option(help="The same seed throws the same dice.")] = 0,
    seconds: Annotated[float, typer.Option(min=0, help="How long a generation takes.")] = 3.0,
    webhook_field: Annotated[str, typer.Option(help="webhookUrl, webhook_url, both or none.")] = "webhookUrl",
) -> None:
    """Run a simulated Apiframe. Faults are set on the fly: `POST /sim/faults`, `GET /sim/books`."""
    if webhook_field not in ("webhookUrl", "webhook_url", "both", "none"):
        raise StartupError("--webhook-field must be webhookUrl, webhook_url, both or none")
    config = SimulatorConfig(
        api_keys=(key,),
        seed=seed,
        generate_seconds=seconds,
        webhook_field=webhook_field,  # type: ignore[arg-type]  # checked above
    )
    with simulator.listen(host, port) as probe:  # a port that is taken is said instead, and port 0 becomes one
        port = probe.getsockname()[1]
    out.print(f"A simulated Apiframe listens on http://{host}:{port}; its key is {key}.", markup=False, soft_wrap=True)
    simulator.run(config, host, port)


def demo(
    port: Annotated[int, typer.Option(help="Port of the service; another one is taken if it is in use.")] = 8000,
    once: Annotated[bool, typer.Option("--once", help="Stop after the first job instead of staying up.")] = False,
) -> None:
    """Start everything, simulator included, run one job through it, and stay up to be played with."""
    demonstration.run(port=port, once=once, out=out)


def faults(
    jobs: Annotated[int, typer.Option(min=1, help="Generations to submit.")] = 5000,
    kills: Annotated[int, typer.Option(min=0, help="How often to kill: a service, a worker, PostgreSQL, or all.")] = 24,
    seed: Annotated[
        int,
        typer.Option(help="Decides prompts, kills and the upstream's dice; not when the system runs which process."),
    ] = 0,
    processes: Annotated[int, typer.Option(min=1, max=16, help="Services, and as many workers beside them.")] = 2,
    data_dir: Annotated[
        Path | None, typer.Option(help="A new folder for data and logs, which is kept; else a temporary one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Kill everything again and again under load, then count what was lost or paid twice. Exit code 1 if anything was.

    Nothing outside this machine is touched, and no data but the run's own. Without --data-dir its folder is removed,
    unless a number is wrong.
    """
    plan = Plan(jobs=jobs, kills=kills, seed=seed, processes=processes)
    progress = Console(stderr=True, highlight=False) if as_json else out
    report = faults_run.run(plan, data_dir=data_dir, out=progress)
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        faults_report.show(report, out)
    if report.wrong:
        raise typer.Exit(1)


def bench(
    seconds: Annotated[float | None, typer.Option(min=1, max=120, help="Length of a round.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=50, help="How many rounds of each kind.")] = None,
    processes: Annotated[int, typer.Option(min=2, max=16, help="Processes that `two_processes_vs_one` has.")] = 2,
    only: Annotated[str | None, typer.Option(help=f"Some of {', '.join(bench_plan.MEASURES)}, by commas.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the order within the rounds.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Short rounds: figures in two minutes, rough ones.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure how fast this is on this machine, in terms of what PostgreSQL itself commits there in the same minutes.

    Exit code 1 if anything that was acknowledged is not in the database exactly once. Nothing outside this machine is
    touched, and no data but the run's own, in a temporary folder.
    """
    plan = bench_plan.make_plan(seconds=seconds, rounds=rounds, processes=processes, only=only, seed=seed, quick=quick)
    report = bench_run.run(plan, out=Console(stderr=True, highlight=False))
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        bench_report.show(report, out)
    if report.wrong:
        raise typer.Exit(1)


def doctor(as_json: AsJson = False) -> None:
    """Check the settings, the database, the upstream key and the way back to this service."""
    findings = run(checks.examine(read_settings()))
    if as_json:
        print(json.dumps([finding.__dict__ for finding in findings], indent=2))
    else:
        marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failed": "[red]failed[/]"}
        table = Table("check", "", "finding", box=None, pad_edge=False)
        for finding in findings:
            table.add_row(finding.check, marks[finding.verdict], escape(finding.text))
        out.print(table)
    if any(finding.verdict == "failed" for finding in findings):
        raise typer.Exit(1)


def pause(team: Annotated[str | None, typer.Option(help="Only this team's jobs.")] = None) -> None:
    """Stop sending jobs to the upstream. They are accepted and kept as before."""
    _set_paused(team, paused=True)
    out.print(f"Dispatch is paused for {escape(team or 'everybody')}. Jobs are still accepted: framehook resume")


def resume(team: Annotated[str | None, typer.Option(help="Only this team's jobs.")] = None) -> None:
    """Send jobs to the upstream again."""
    _set_paused(team, paused=False)
    out.print(f"Dispatch goes on for {escape(team or 'everybody')}.")


def _set_paused(team: str | None, *, paused: bool) -> None:
    async def work(settings: Settings) -> bool:
        async with open_context(settings) as ctx:
            return await upstream.set_paused(ctx, team, paused=paused)

    if not run(work(read_settings())):
        raise StartupError(f"there is no team {team}")
