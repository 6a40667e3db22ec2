"""What all commands share: the settings, the event loop, the terminal."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.progress import Progress, ProgressColumn

from app import serving
from app.auth import NOBODY, Caller
from app.config import Settings, load_settings

Result = TypeVar("Result")

out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)  # no terminal, nothing to fit lines into

ADMIN: Final = Caller(NOBODY, NOBODY, "", frozenset({"admin"}))
"""Whoever has a shell on the service."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def read_settings(**given: object) -> Settings:
    """The settings, with those options that were given; raises StartupError."""
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    serving.configure_logs(settings)
    return settings


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Do a command's work in an event loop of its own."""
    return asyncio.run(work)


def plain(value: object) -> str:
    """What JSON has no form for, as text."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def day(time: datetime | None) -> str:
    """A time to the minute, or nothing."""
    return f"{time:%Y-%m-%d %H:%M}" if time else ""


def printable(text: str) -> str:
    """A text of others in one line, without what a terminal would obey."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def print_line(line: str) -> None:
    """Print a line of data as it is, at once."""
    print(line, flush=True)


def print_json(value: Any) -> None:
    """Print JSON for scripts, which people can read as well."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def tell(line: str) -> None:
    """Say what is no data, on standard error."""
    print(line, file=sys.stderr, flush=True)


def progress_bar(*columns: ProgressColumn | str, quiet: bool = False) -> Progress:
    """A progress bar on standard error, so that the output can be piped; nothing where nobody looks."""
    console = Console(stderr=True, highlight=False)
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
