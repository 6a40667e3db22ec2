"""The command that lets go what is past its time, or says what that is."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from app.cli.terminal import AsJson, out, read_settings, run
from app.config import Settings
from app.context import Context, open_context
from app.dashboard.stale import SESSIONS
from app.ops import clearing
from app.ops.clearing import Clearing
from app.ops.pruning import KINDS

EVERY_KIND: Final = (*KINDS, SESSIONS)


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete now what is past the days that it is kept, as the service does bit by bit. Exit code 1 if something is left.

    That is a partition which somebody is using all the time; the service tries again.
    """

    async def work(settings: Settings) -> Clearing:
        async with open_context(settings) as ctx:
            return await clearing.foresee(ctx, EVERY_KIND) if dry_run else await _clear(ctx, quiet=as_json)

    # What went is told at the end; a line for every batch would tear the bar apart.
    result = run(work(read_settings(log_level="warning")))
    if as_json:
        print(json.dumps(_as_json(result, dry_run=dry_run), indent=2))
    else:
        _show(result, dry_run=dry_run)
    if result.in_use:
        raise typer.Exit(1)


async def _clear(ctx: Context, *, quiet: bool) -> Clearing:
    """Clear, with a bar on standard error where somebody looks. Its end is not known where there is more than is counted."""
    expected = await clearing.foresee(ctx, EVERY_KIND)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("Pruning", total=None if expected.more else _size(expected))
        return await clearing.clear(ctx, EVERY_KIND, told=lambda gone: progress.update(task, completed=_size(gone)))


def _size(clearing: Clearing) -> int:
    """Steps of the bar: rows, and partitions."""
    return len(clearing.days) + clearing.rows.total()


def _as_json(result: Clearing, *, dry_run: bool) -> dict[str, Any]:
    days = [
        {
            "name": day.partition.name,
            "table": day.partition.table,
            "day": day.partition.day.isoformat(),
            "estimatedRows": day.row_count,
            "bytes": day.byte_count,
        }
        for day in result.days
    ]
    rows = {name: {"count": count, "more": name in result.more} for name, count in result.rows.items()}
    return {"dryRun": dry_run, "partitions": days, "rows": rows, "inUse": result.in_use}


def _show(result: Clearing, *, dry_run: bool) -> None:
    number = Column("rows", justify="right")
    table = Table(Column("what", no_wrap=True), number, Column("MB", justify="right"), box=None, pad_edge=False)
    for day in result.days:
        estimate = "?" if day.row_count is None else f"~{day.row_count:,}"
        table.add_row(day.partition.name, estimate, f"{day.byte_count / 1e6:,.1f}")
    for name, count in result.rows.items():
        if count:
            table.add_row(name.replace("_", " "), f"{count:,}{'+' if name in result.more else ''}", "")
    if table.row_count:
        out.print("This would go:" if dry_run else "This went:")
        out.print(table)
    else:
        out.print("Nothing is past its time.")
    for name in result.in_use:
        out.print(f"{name} is in use and stays for now: try again later.")
