"""Commands of kept files."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table

from app.archive import verify as checking
from app.archive.queries import reading
from app.archive.verify import Report
from app.cli.terminal import ADMIN, AsJson, out, plain, read_settings, run
from app.config import MODALITIES, Settings
from app.context import open_context
from app.errors import StartupError
from app.jobs import backfill as filling
from app.objects import StorageFailed
from app.teams import teams

files = typer.Typer(name="files", help="Kept result files: check them, fetch missing ones.", no_args_is_help=True)


@files.command("verify")
def verify(
    remove_unknown: Annotated[
        bool,
        typer.Option(
            "--remove-unknown",
            help=(
                "Remove objects of ours that belong to no file. Never where two installations share a bucket or a folder: "
                "what is the other one's belongs to no file of this one."
            ),
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every kept file again and compare its SHA-256. Exit code 1 if one is missing or changed."""

    async def work(settings: Settings) -> Report:
        async with open_context(settings) as ctx:
            if ctx.objects is None:
                raise StartupError("the archive is off: FRAMEHOOK_ARCHIVE_URL")
            async with ctx.db.reading() as connection:
                total = await reading.count_stored(connection)
            with _progress(quiet=as_json) as progress:
                task = progress.add_task("Verifying", total=total)
                try:
                    return await checking.verify(
                        ctx,
                        ctx.objects,
                        remove_unknown=remove_unknown,
                        told=lambda report: progress.update(task, completed=report.checked),
                    )
                except StorageFailed as error:
                    raise StartupError(f"the storage cannot be read: {error}") from None

    report = run(work(read_settings()))
    if as_json:
        print(json.dumps(asdict(report), default=plain, indent=2))
    else:
        _show(report)
    if report.findings:
        raise typer.Exit(1)


def _show(report: Report) -> None:
    if report.findings:
        table = Table(
            Column("file", no_wrap=True), "job", "fault", Column("", overflow="fold"), box=None, pad_edge=False
        )
        for found in report.findings:
            table.add_row(str(found.file_id), str(found.job_id or ""), found.fault, escape(found.text))
        out.print(table)
    out.print(f"{report.checked:,} files, {report.byte_count:,} bytes: {len(report.findings):,} missing or changed.")
    if report.unknown:
        verb = "removed" if report.removed else "found; --remove-unknown removes them"
        out.print(f"{len(report.unknown):,} objects that belong to no file: {verb}.")


@files.command("backfill")
def backfill(
    days: Annotated[int, typer.Option(min=1, max=36500, help="Jobs that were submitted in so many days.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Keep files of completed jobs that were not kept yet, and try again those that failed.

    The upstream purges files about 24 hours after their job: older ones are tried once.
    """

    async def work(settings: Settings) -> Counter[str]:
        async with open_context(settings) as ctx:
            if ctx.objects is None:
                raise StartupError("the archive is off: FRAMEHOOK_ARCHIVE_URL")
            with _progress(quiet=as_json) as progress:
                task = progress.add_task("Fetching", total=None)
                return await filling.backfill(
                    ctx,
                    since=ctx.now() - timedelta(days=days),
                    told=lambda done, total: progress.update(task, completed=done, total=total),
                )

    counts = run(work(read_settings()))
    told = {status: counts[status] for status in ("stored", "failed", "pending")}
    if as_json:
        print(json.dumps(told))
        return
    out.print(f"{told['stored']:,} stored, {told['failed']:,} could not be had.")
    if told["pending"]:
        out.print(f"{told['pending']:,} are tried again later by whatever service runs.")


@files.command("keep")
def keep(
    team: Annotated[str, typer.Argument(help="The team's name.")],
    modalities: Annotated[str, typer.Argument(help=f"Comma-separated: {', '.join(MODALITIES)}; or none, or default.")],
) -> None:
    """Say which results of a team are kept from now on; `default` leaves it to FRAMEHOOK_ARCHIVE_MODALITIES."""
    wanted = (
        None
        if modalities == "default"
        else []
        if modalities == "none"
        else [each.strip() for each in modalities.split(",")]
    )
    unknown = [each or "''" for each in sorted(set(wanted or ()) - set(MODALITIES))]
    if unknown:
        raise StartupError(f"unknown {', '.join(unknown)}; there are {', '.join(MODALITIES)}, none, and default")

    async def work(settings: Settings) -> bool:
        async with open_context(settings) as ctx, ctx.db.transaction() as tx:
            return await teams.apply_by_name(tx, ADMIN.actor, team, {"archivedModalities": wanted}, ctx.now())

    if not run(work(read_settings())):
        raise StartupError(f"there is no team {team}")
    words = "what the settings say" if wanted is None else ", ".join(wanted) or "nothing"
    out.print(f"Of team {escape(team)} is kept: {words}.")


def _progress(*, quiet: bool) -> Progress:
    """A bar where somebody looks; it goes to standard error, so that the output can be piped."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet,
    )
