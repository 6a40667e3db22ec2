"""Commands of teams: list them, make them, say what they may do."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Column, Table

from app.cli.terminal import ADMIN, AsJson, out, read_settings, run
from app.config import MODALITIES
from app.context import Context, open_context
from app.errors import Invalid, StartupError
from app.teams import teams as every
from app.teams.asking import COLUMN_OF
from app.teams.queries.teams import find_team

teams = typer.Typer(name="teams", help="List and make teams, and say what they may do.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The team's name.")]


@teams.command("list")
def list_teams(as_json: AsJson = False) -> None:
    """List all teams with what they may do."""

    async def work(ctx: Context) -> list[dict[str, Any]]:
        found, query = [], {"limit": str(every.LARGEST_LIMIT)}
        while True:
            page = await every.show_all(ctx, query)
            found += page["teams"]
            if not page["hasMore"]:
                return found
            query["cursor"] = page["nextCursor"]

    rows = _do(work)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    heads = ("requests/min", "queued", "in flight", "operations", "models", "credits", "kept")
    columns = (Column(name, overflow="fold") for name in ("team", *heads, ""))
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        limits = (_shown(row[name]) for name in COLUMN_OF)
        table.add_row(escape(row["name"]), *(escape(limit) for limit in limits), "paused" if row["paused"] else "")
    out.print(table)


@teams.command("create")
def create_team(name: Name, as_json: AsJson = False) -> None:
    """Make a team that may do everything: `teams set` limits it, `keys create` gives it a key."""
    made = _do(lambda ctx: every.create(ctx, ADMIN, {"name": name}))
    if as_json:
        print(json.dumps(made, indent=2))
    else:
        out.print(f"Made team {escape(name)}.")


Number = Annotated[str | None, typer.Option(help="A number, or none for no limit.")]
Names = Annotated[str | None, typer.Option(help="Comma-separated names, or patterns with *; none for no limit.")]


@teams.command("set")
def set_limits(
    name: Name,
    requests_per_minute: Number = None,
    queued_limit: Number = None,
    in_flight_limit: Number = None,
    allowed_operations: Names = None,
    allowed_models: Names = None,
    monthly_credits: Number = None,
    archived_modalities: Annotated[
        str | None, typer.Option(help=f"Of {', '.join(MODALITIES)}; none for what the settings say.")
    ] = None,
) -> None:
    """Say what a team may do. What is not named stays; `framehook pause --team` holds its jobs."""
    numbers = {
        "requestsPerMinute": requests_per_minute,
        "queuedLimit": queued_limit,
        "inFlightLimit": in_flight_limit,
        "monthlyCredits": monthly_credits,
    }
    lists = {
        "allowedOperations": allowed_operations,
        "allowedModels": allowed_models,
        "archivedModalities": archived_modalities,
    }
    asked: dict[str, Any] = {field: _number(text) for field, text in numbers.items() if text is not None}
    asked |= {field: _list(text) for field, text in lists.items() if text is not None}
    if not asked:
        raise StartupError("nothing to set: give at least one option")

    async def work(ctx: Context) -> dict[str, Any]:
        async with ctx.db.reading() as connection:
            team = await find_team(connection, name)
        if team is None:
            raise StartupError(f"there is no team {name}")
        return await every.change(ctx, ADMIN, team.id, asked)

    now = _do(work)
    out.print(f"Team {escape(name)}:")
    for field in COLUMN_OF:
        out.print(f"  {field:<18} {_shown(now[field]) or 'no limit'}", markup=False, soft_wrap=True)


def _do(work: Callable[[Context], Awaitable[Any]]) -> Any:
    """Do something; what comes of it as JSON has it. What is wrong with a field becomes the one line of an error."""

    async def with_context() -> Any:
        async with open_context(read_settings()) as ctx:
            return await work(ctx)

    try:
        return json.loads(msgspec.json.encode(run(with_context())))
    except Invalid as error:
        faults = error.body.get("details", {})
        raise StartupError("; ".join(f"{name}: {words[0]}" for name, words in faults.items())) from None


def _number(text: str) -> Any:
    if text == "none":
        return None
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else text


def _list(text: str) -> list[str] | None:
    return None if text == "none" else [each.strip() for each in text.split(",") if each.strip()]


def _shown(limit: Any) -> str:
    if limit is None:
        return ""
    return (", ".join(limit) or "nothing") if isinstance(limit, list) else f"{limit:,}"
