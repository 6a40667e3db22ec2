"""A whole run in order: start, storm, drain, stop, compare. The evidence stays where a number is wrong.

The service's processes are stopped before the books are read, so that nothing is acknowledged between one and the other.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from sqlalchemy import text

from app import logs
from app.auth import Caller
from app.clock import new_id
from app.config import Settings
from app.context import open_context, open_database
from app.deliveries import subscriptions
from app.errors import StartupError
from app.faults import ledgers
from app.faults.callers import Callers
from app.faults.compare import Books, compare, confirmed
from app.faults.plan import TEAMS, Plan, settings_for, simulator_config, strikes, submissions
from app.faults.processes import Fleet
from app.faults.report import Progress, Report
from app.faults.storm import await_ready, drain, storm, supervised
from app.faults.subscriber import Subscriber
from app.simulator.server import RunningSimulator
from app.teams.keys import create_key
from app.teams.queries.teams import find_team_id

BUDGET: Final = 1_000_000
"""Credits that each team may spend: more than it can, so that all is reserved and nothing refused."""

_GIVE_BUDGETS: Final = text("UPDATE teams SET monthly_credits = :credits WHERE name = ANY(CAST(:teams AS text[]))")


@dataclass(frozen=True, slots=True)
class _Ending:
    """What everybody said when all was quiet; `upstream` are the simulator's books as they were read."""

    books: Books
    upstream: dict[str, Any]
    callers: Callers
    fleet: Fleet
    subscriber: Subscriber


def run(plan: Plan, *, data_dir: Path | None, out: Console) -> Report:
    """Run the plan and report. A folder that was given must be new or empty, and is kept; raises StartupError."""
    folder = _make_folder(data_dir)
    began = time.monotonic()
    try:
        ending = _run_in(folder, plan, out)
        report = _report(plan, ending, round(time.monotonic() - began, 1))
        if not report.wrong and data_dir is None:
            shutil.rmtree(folder)
            return report
    except KeyboardInterrupt:
        if data_dir is None and folder.exists():
            shutil.rmtree(folder)
        raise
    except StartupError as error:
        raise StartupError(f"{error} (what the run left is in {folder})") from None
    report = replace(report, evidence=str(folder))
    _write_evidence(folder, report, ending)
    return report


def _run_in(folder: Path, plan: Plan, out: Console) -> _Ending:
    with ExitStack() as stack:
        out.print("[dim]PostgreSQL, a simulated Apiframe and the processes of the service are starting …[/]")
        simulator = stack.enter_context(RunningSimulator(simulator_config(plan)))
        settings = settings_for(simulator.url, folder / "data")
        logs.configure(settings.model_copy(update={"log_level": "warning"}))  # standard output is the report's
        fleet = Fleet(folder, simulator.url, plan.processes)
        stack.callback(fleet.stop_database)
        subscriber = stack.enter_context(Subscriber(plan))
        keys = asyncio.run(_make_keys(settings, subscriber.url))
        progress = stack.enter_context(Progress(plan, out))
        callers = Callers(submissions(plan), fleet.urls, keys, progress.acknowledged)
        return asyncio.run(_storm_and_read(plan, settings, simulator, fleet, callers, subscriber, progress))


async def _storm_and_read(
    plan: Plan,
    settings: Settings,
    simulator: RunningSimulator,
    fleet: Fleet,
    callers: Callers,
    subscriber: Subscriber,
    progress: Progress,
) -> _Ending:
    async with AsyncExitStack() as holding:
        # Within the loop Ctrl-C waits for an await: it cannot fall between a process's start and the note of it.
        holding.enter_context(fleet)
        async with supervised(fleet):
            await await_ready(fleet)
            # While anybody is killed the database is not held here: the services are to revive it.
            await storm(callers, strikes(plan), fleet, progress)
            database = await holding.enter_async_context(open_database(settings))
            await drain(database, simulator, progress)
        await asyncio.to_thread(fleet.stop)
        upstream = await asyncio.to_thread(simulator.ask, "books")
        books = Books(
            submitted=[submission.prompt for submission in submissions(plan)],
            acknowledged=callers.acknowledged,
            kept=await ledgers.read_jobs(database),
            upstream=ledgers.upstream_jobs(upstream),
            webhooks=ledgers.acknowledged_webhooks(upstream, simulator.world.config),
            applied=await ledgers.read_applied(database),
            events=await ledgers.read_events(database),
            told=subscriber.told,
            bills=await ledgers.read_bills(database),
            unbalanced=await ledgers.read_unbalanced(database),
        )
    return _Ending(books, upstream, callers, fleet, subscriber)


async def _make_keys(settings: Settings, subscriber_url: str) -> dict[str, str]:
    """A key for every team, and a subscription to everything; the database is made and migrated on the way."""
    async with open_context(settings) as ctx:
        async with ctx.db.transaction() as tx:
            keys = {
                team: (await create_key(tx, team=team, scopes=("submit", "read"), now=ctx.now(), name="faults")).key
                for team in TEAMS
            }
            await tx.execute(_GIVE_BUDGETS, {"credits": BUDGET, "teams": list(TEAMS)})
            team_id = await find_team_id(tx, TEAMS[0])
        assert team_id is not None, "its key was just made"
        admin = Caller(new_id(), team_id, TEAMS[0], frozenset({"admin"}))
        await subscriptions.create(ctx, admin, {"url": subscriber_url, "types": ["*"], "allTeams": True})
        return keys


def _report(plan: Plan, ending: _Ending, seconds: float) -> Report:
    books = ending.books
    return Report(
        plan=plan,
        seconds=seconds,
        acknowledged=len(books.acknowledged),
        ended=confirmed(books),
        webhooks_acknowledged=len(books.webhooks),
        events=len(books.events),
        deliveries=ending.subscriber.deliveries,
        repeats=ending.callers.repeats,
        replays=ending.upstream["counters"]["replays"],
        unexpected_answers=ending.callers.unexpected,
        kills=ending.fleet.killed,
        ended_by_themselves=ending.fleet.ended_by_themselves,
        findings=compare(books),
    )


def _make_folder(data_dir: Path | None) -> Path:
    if data_dir is None:
        return Path(tempfile.mkdtemp(prefix="framehook-faults-"))
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(data_dir.iterdir()):
            raise StartupError(f"{data_dir} is not empty: a run needs a folder of its own")
    except OSError as error:
        raise StartupError(f"cannot use {data_dir}: {error.strerror}") from None
    return data_dir.resolve()


def _write_evidence(folder: Path, report: Report, ending: _Ending) -> None:
    """Beside the database and the logs: the numbers with all findings, what callers were told, what the upstream saw."""
    callers = {"acknowledged": ending.callers.acknowledged, "submissions": submissions(report.plan)}
    for name, content in (("report", report.as_json()), ("callers", callers), ("upstream", ending.upstream)):
        (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(content)))
