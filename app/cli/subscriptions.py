"""Commands of subscriptions, for whoever has a shell on the service: they act on any team's, as an admin would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table

from app.auth import NOBODY, Caller
from app.cli.terminal import ADMIN, AsJson, out, read_settings, run
from app.context import Context, open_context
from app.deliveries import replay as replays
from app.deliveries import subscriptions as every
from app.deliveries import trial
from app.deliveries.replay import ReplayRequest
from app.errors import StartupError
from app.paging import parse_id
from app.teams.queries.teams import find_team_id

Result = TypeVar("Result")

LOOK_SECONDS: Final = 0.5

subscriptions = typer.Typer(
    name="subscriptions", help="Tell services of events: subscribe, try out, replay.", no_args_is_help=True
)

SubscriptionId = Annotated[str, typer.Argument(help="The subscription's id, as `subscriptions list` shows it.")]


@subscriptions.command("list")
def list_subscriptions(as_json: AsJson = False) -> None:
    """List the subscriptions of all teams, and how they fare."""
    found = _do(every.show_all)["subscriptions"]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    whole = Column("id", no_wrap=True)
    others = (Column(name, overflow="fold") for name in ("team", "url", "types", "state", "last success"))
    table = Table(whole, *others, box=None, pad_edge=False)
    for each in found:
        state = each["disabledReason"] or (f"{each['failureCount']} failed" if each["failureCount"] else "ok")
        shown = (each["id"], each["team"], each["url"], ",".join(each["types"]), state, each["lastSuccessAt"] or "")
        table.add_row(*(escape(text) for text in shown))
    out.print(table)


@subscriptions.command("create")
def create_subscription(
    url: Annotated[str, typer.Argument(help="Where events are sent.")],
    team: Annotated[str, typer.Option(help="The team whose events they are.")],
    types: Annotated[str, typer.Option(help="Comma-separated types of events, or patterns.")] = "job.*",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    all_teams: Annotated[bool, typer.Option("--all-teams", help="The events of all teams.")] = False,
    as_json: AsJson = False,
) -> None:
    """Subscribe a URL. Its secret is shown now and never again."""
    wanted = [pattern.strip() for pattern in types.split(",") if pattern.strip()]
    body = {"url": url, "types": wanted, "description": description, "allTeams": all_teams}
    made = _do(lambda ctx, who: every.create(ctx, who, body), team=team)
    if as_json:
        print(json.dumps(made, indent=2))
        return
    out.print(made["secret"], style="bold", markup=False, soft_wrap=True)
    out.print(f"Subscription {made['id']}. Keep the secret: it is not shown again.", markup=False, soft_wrap=True)


@subscriptions.command("test")
def try_subscription(subscription_id: SubscriptionId, as_json: AsJson = False) -> None:
    """Send a signed test event now, and show what came of it. Exit code 1 if it was not received."""
    tried = _do(lambda ctx, who: trial.try_out(ctx, who, parse_id(subscription_id, "Subscription")))
    if as_json:
        print(json.dumps(tried, indent=2))
    else:
        said = tried["error"] or f"{tried['status']} {tried['responseBody'][:200]}"
        out.print(f"{said} ({tried['seconds']} s, {tried['address'] or 'no address'})", markup=False, soft_wrap=True)
    if not tried["delivered"]:
        raise typer.Exit(1)


@subscriptions.command("enable")
def enable_subscription(subscription_id: SubscriptionId) -> None:
    """Enable a subscription again. What happened meanwhile is kept: framehook subscriptions replay."""
    _do(lambda ctx, who: every.enable(ctx, who, parse_id(subscription_id, "Subscription")))
    out.print(f"Enabled {subscription_id}.")


@subscriptions.command("delete")
def delete_subscription(subscription_id: SubscriptionId) -> None:
    """End a subscription for good."""
    _do(lambda ctx, who: every.delete(ctx, who, parse_id(subscription_id, "Subscription")))
    out.print(f"Deleted {subscription_id}.")


@subscriptions.command("replay")
def replay_subscription(
    subscription_id: SubscriptionId,
    since: Annotated[str | None, typer.Option("--from", help="Only events from this time on (ISO 8601).")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Only events before this time.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All events, not only what was undelivered.")] = False,
    per_second: Annotated[int, typer.Option(help="How many a second.")] = replays.PER_SECOND,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
) -> None:
    """Have deliveries made again by the service that runs, and watch. Ctrl-C leaves it going on."""
    times = {name: time for name, time in (("from", since), ("to", until)) if time is not None}
    asked = ReplayRequest.parse(
        {**times, "undeliveredOnly": not everything, "perSecond": per_second, "dryRun": dry_run}
    )

    async def work(ctx: Context, who: Caller) -> int:
        begun = await replays.start(ctx, who, parse_id(subscription_id, "Subscription"), asked)
        if not dry_run:
            out.print(f"Replay {begun['id']} has begun.", markup=False)
            await _watch(ctx, who, begun)
        return int(begun["totalCount"])

    out.print(f"{_do(work):,} deliveries.")


async def _watch(ctx: Context, who: Caller, begun: dict[str, Any]) -> None:
    columns = (TextColumn("made due again"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=out) as progress:
        task = progress.add_task("", total=begun["totalCount"])
        while begun["status"] == "running":
            await asyncio.sleep(LOOK_SECONDS)
            begun = await replays.show(ctx, who, begun["id"])
            progress.update(task, completed=begun["doneCount"])


def _do(work: Callable[[Context, Caller], Awaitable[Result]], *, team: str | None = None) -> Any:
    """Do something as an admin, of a team where it matters which; what comes of it as JSON has it."""

    async def with_context() -> Result:
        async with open_context(read_settings()) as ctx:
            async with ctx.db.reading() as connection:
                team_id = await find_team_id(connection, team) if team is not None else NOBODY
            if team_id is None:
                raise StartupError(f"there is no team {team}")
            return await work(ctx, replace(ADMIN, team_id=team_id, team=team or ""))

    return json.loads(msgspec.json.encode(run(with_context())))
