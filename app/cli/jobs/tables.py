"""Jobs in a table that fits the terminal, with their ids whole: only what stands in the last column is cut short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.cli.terminal import printable
from app.dashboard.words import ago, duration

WIDE: Final = 110
"""Columns of a terminal in which all that is told of a job has room beside its id."""

GAP: Final = 2
LEAST_ROOM: Final = 1
LONGEST_PROMPT: Final = 200


def table_of(jobs: Sequence[dict[str, Any]], now: datetime, width: int) -> Table:
    """What `list` shows; what a narrow terminal has no room for is left out."""
    columns = {
        "id": [job["id"] for job in jobs],
        "status": [state(job) for job in jobs],
        "age": [ago(datetime.fromisoformat(job["createdAt"]), now).removesuffix(" ago") for job in jobs],
    }
    if width >= WIDE:
        columns["took"] = [took(job) for job in jobs]
        columns["credits"] = ["" if job["creditCost"] is None else f"{job['creditCost']:,}" for job in jobs]
        columns["model"] = [job["model"] or "" for job in jobs]
    return fitted(columns, "prompt", [prompt(job) for job in jobs], width)


def fitted(columns: Mapping[str, Sequence[str]], last: str, lines: Sequence[str], width: int) -> Table:
    """A table of whole columns and a last one that is cut to the room beside them."""
    room = max(width - sum(max(map(cell_len, (name, *texts))) + GAP for name, texts in columns.items()), LEAST_ROOM)
    table = Table(*columns, box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    table.add_column(_cut(last, room), no_wrap=True)
    for *row, line in zip(*columns.values(), lines, strict=True):
        table.add_row(*map(escape, row), _cut(line, room))
    return table


def _cut(text: str, room: int) -> Text:
    words = Text(text)
    words.truncate(room, overflow="ellipsis")
    return words


def state(job: dict[str, Any]) -> str:
    """A job's status, and how far it is where the upstream tells."""
    if job["status"] == "PROCESSING" and job["progress"]:
        return f"PROCESSING {job['progress']} %"
    return str(job["status"])


def took(job: dict[str, Any]) -> str:
    """How long a job took; nothing for one that is under way."""
    if job["completedAt"] is None:
        return ""
    began, ended = (datetime.fromisoformat(job[name]) for name in ("createdAt", "completedAt"))
    return duration((ended - began).total_seconds())


def prompt(job: dict[str, Any]) -> str:
    """The beginning of a job's prompt, in one line."""
    words = (job["input"] or {}).get("prompt")
    return printable(words[:LONGEST_PROMPT]) if isinstance(words, str) else ""


def said(job: dict[str, Any]) -> str:
    """What matters most of a job that something happened to: why it failed, else what was asked for."""
    return printable(job["error"]) if job["error"] else prompt(job)
