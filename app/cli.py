"""The console script `framehook`: every command on one page. Errors are one line and an exit code, never a traceback."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from app import demo as demonstration
from app import migrate as migrations
from app import serving
from app.config import Settings, load_settings
from app.context import open_context, open_database
from app.db import OUTAGES, is_outage
from app.errors import ApiError, StartupError
from app.faults import report as faults_report
from app.faults import run as faults_run
from app.faults.plan import Plan
from app.jobs import upstream
from app.models import SCOPES
from app.ops import doctor as checks
from app.ops import trace
from app.simulator import server as simulator
from app.simulator.config import SimulatorConfig
from app.teams import keys as team_keys

Result = TypeVar("Result")

app = typer.Typer(
    name="framehook",
    help="Apiframe's own calls, with every job kept, tracked and never paid twice.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")
jobs = typer.Typer(help="Look into jobs.", no_args_is_help=True)
app.add_typer(jobs, name="jobs")

out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)  # no terminal, nothing to fit lines into

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def main() -> None:
    """Run a command; whatever it may expect to go wrong becomes one line on standard error and exit code 1."""
    serving.heed_signals()
    try:
        app()
    except (StartupError, ApiError) as error:
        fail(str(error))
    except OUTAGES as error:
        if not is_outage(error):
            raise
        fail(serving.explain_outage(error))
    except KeyboardInterrupt:
        sys.exit(130)


def fail(line: str) -> None:
    """Say what is wrong and leave."""
    print(f"framehook: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(1)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind (FRAMEHOOK_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind (FRAMEHOOK_PORT).")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that answer requests.")] = 1,
    loops: Annotated[bool, typer.Option("--loops/--no-loops", help="Run the background loops here too.")] = True,
    migrate: Annotated[bool, typer.Option("--migrate", help="Migrate an external database first.")] = False,
) -> None:
    """Serve the API and run the background loops."""
    settings = _settings(host=host, port=port, loops=None if loops else False)
    serving.serve(settings, workers=workers, migrate_first=migrate)


@app.command()
def worker() -> None:
    """Run the background loops without the API."""
    serving.work(_settings())


@app.command()
def migrate() -> None:
    """Bring the database to this version's schema. Safe to run in several places at once."""

    async def run(settings: Settings) -> str | None:
        async with open_database(settings) as database:
            await migrations.upgrade(database)
            return await migrations.current_revision(database)

    out.print(f"The database is at revision [bold]{_run(run(_settings()))}[/].")


@app.command()
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


@app.command()
def demo(
    port: Annotated[int, typer.Option(help="Port of the service; another one is taken if it is in use.")] = 8000,
    once: Annotated[bool, typer.Option("--once", help="Stop after the first job instead of staying up.")] = False,
) -> None:
    """Start everything, simulator included, run one job through it, and stay up to be played with."""
    demonstration.run(port=port, once=once, out=out)


@app.command()
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


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check the settings, the database, the upstream key and the way back to this service."""
    findings = _run(checks.examine(_settings()))
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


@app.command()
def pause(team: Annotated[str | None, typer.Option(help="Only this team's jobs.")] = None) -> None:
    """Stop sending jobs to the upstream. They are accepted and kept as before."""
    _set_paused(team, paused=True)
    out.print(f"Dispatch is paused for {escape(team or 'everybody')}. Jobs are still accepted: framehook resume")


@app.command()
def resume(team: Annotated[str | None, typer.Option(help="Only this team's jobs.")] = None) -> None:
    """Send jobs to the upstream again."""
    _set_paused(team, paused=False)
    out.print(f"Dispatch goes on for {escape(team or 'everybody')}.")


def _set_paused(team: str | None, *, paused: bool) -> None:
    async def run(settings: Settings) -> bool:
        async with open_context(settings) as ctx:
            return await upstream.set_paused(ctx, team, paused=paused)

    if not _run(run(_settings())):
        raise StartupError(f"there is no team {team}")


@keys.command("create")
def create_key(
    team: Annotated[str, typer.Option(help="The team it belongs to; made if it is new.")],
    scopes: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(SCOPES)}.")] = "submit,read",
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    expires_days: Annotated[int | None, typer.Option(min=1, max=36500, help="Days it is good for.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is shown now and never again."""

    async def run(settings: Settings) -> team_keys.NewKey:
        async with open_context(settings) as ctx, ctx.db.transaction() as tx:
            return await team_keys.create_key(
                tx,
                team=team,
                scopes=wanted,
                name=name,
                now=ctx.now(),
                expires_at=ctx.now() + timedelta(days=expires_days) if expires_days else None,
            )

    try:
        wanted = team_keys.check_scopes([scope.strip() for scope in scopes.split(",") if scope.strip()])
    except ValueError as error:
        raise StartupError(str(error)) from None
    if not team.strip():
        raise StartupError("--team must not be empty")
    made = _run(run(_settings()))
    if as_json:
        print(json.dumps({"id": str(made.id), "key": made.key, "team": made.team, "scopes": list(made.scopes)}))
    else:
        out.print(made.key, style="bold", markup=False, soft_wrap=True)
        out.print(
            f"Team {made.team}, scopes {', '.join(made.scopes)}. Keep it: it is not shown again.",
            markup=False,
            soft_wrap=True,
        )


@keys.command("list")
def list_keys(
    team: Annotated[str | None, typer.Option(help="Only this team's.")] = None, as_json: AsJson = False
) -> None:
    """List the keys of all teams, revoked ones too."""

    async def run(settings: Settings) -> list[dict[str, Any]]:
        async with open_context(settings) as ctx, ctx.db.transaction() as tx:
            return [dict(row._mapping) for row in await team_keys.list_keys(tx, team)]

    rows = _run(run(_settings()))
    if as_json:
        print(json.dumps(rows, default=_plain, indent=2))
        return
    whole = Column("id", no_wrap=True)  # it is what `keys revoke` is given
    others = (Column(name, overflow="fold") for name in ("team", "name", "key", "scopes", "created", "used", "state"))
    table = Table(whole, *others, box=None, pad_edge=False)
    for row in rows:
        table.add_row(
            str(row["id"]),
            escape(row["team"]),
            escape(row["name"]),
            f"{row['prefix']}…",
            ",".join(row["scopes"]),
            _day(row["created_at"]),
            _day(row["last_used_at"]),
            "revoked" if row["revoked_at"] else f"until {_day(row['expires_at'])}" if row["expires_at"] else "valid",
        )
    out.print(table)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")]) -> None:
    """Revoke a key; every process refuses it within a second."""

    async def run(settings: Settings, uuid: UUID) -> bool:
        async with open_context(settings) as ctx, ctx.db.transaction() as tx:
            return await team_keys.revoke_key(tx, uuid, ctx.now())

    try:
        uuid = UUID(key_id)
    except ValueError:
        raise StartupError(f"{key_id} is not a key's id") from None
    if not _run(run(_settings(), uuid)):
        raise StartupError(f"there is no key {key_id} that is not revoked already")
    out.print(f"Revoked {key_id}.")


@jobs.command("show")
def show_job(
    job_id: Annotated[str, typer.Argument(help="The job's id, ours or the upstream's.")], as_json: AsJson = False
) -> None:
    """Show everything that happened to a job of any team, in order."""

    async def run(settings: Settings) -> dict[str, Any]:
        async with open_context(settings) as ctx, ctx.db.reading() as connection:
            return await trace.trace_job(connection, job_id, only_team=None, now=ctx.now())

    found = msgspec.json.encode(_run(run(_settings())))
    if as_json:
        print(msgspec.json.format(found, indent=2).decode())
        return
    told = json.loads(found)
    for name in ("id", "team", "model", "status", "error", "upstreamId", "nextDispatchAt", "nextPollAt", "overdue"):
        if told["job"][name]:
            out.print(f"{name:<14} {told['job'][name]}", markup=False, soft_wrap=True)
    if told["hasMore"]:
        out.print("Older steps are left out.")
    out.print(_table_of_steps(told["steps"]))


def _table_of_steps(steps: list[dict[str, Any]]) -> Table:
    fixed = (Column(name, no_wrap=True) for name in ("time", "+seconds", "what", "by"))
    table = Table(*fixed, Column("details", overflow="fold"), box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for step in steps:
        by = step["byName"] or step["by"]
        shown = (step["at"], f"{step['afterSeconds']:+.3f}", step["what"], by, trace.describe(step))
        table.add_row(*(escape(text) for text in shown))
    return table


def _settings(**given: object) -> Settings:
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    serving.configure_logs(settings)
    return settings


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(work)


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _day(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M}" if time else ""
