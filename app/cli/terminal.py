"""What all commands share: the settings, the event loop, the terminal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console

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
