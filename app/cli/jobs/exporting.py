"""`export`: jobs by the hundred thousand, streamed to a file or a pipe as they are read, in constant memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Final
from uuid import uuid4

import typer
from rich.progress import Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from app.cli.jobs.selection import Wanted, settle
from app.cli.options import Where
from app.cli.reach import reach
from app.cli.terminal import progress_bar, run, tell
from app.errors import StartupError

FORMATS: Final = ("csv", "jsonl")


def export_jobs(
    wanted: Wanted,
    where: Where,
    form: Annotated[str, typer.Option("--format", help=f"{' or '.join(FORMATS)}.")] = "csv",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A file, which is replaced once all is there.")
    ] = None,
) -> None:
    """Write the jobs that a filter finds to a file or to standard output, the newest first."""
    if form not in FORMATS:
        raise StartupError(f"--format must be {' or '.join(FORMATS)}, not {form}")

    async def work() -> int:
        async with reach(where) as service:
            query = await settle(service, wanted) | {"format": form}
            async with service.open("GET", "/v2/jobs", query=query) as response:
                with _target(output) as file, _progress() as progress:
                    task = progress.add_task("", total=None)
                    rows = Rows(has_head=form == "csv")
                    async for part in response.aiter_bytes():
                        file.write(part)
                        progress.update(task, completed=rows.count(part))
                return rows.total

    total = run(work())
    if output is not None and sys.stderr.isatty():
        tell(f"{total:,} jobs in {output}.")


class Rows:
    """How many rows have gone by in parts of an export. In CSV a line break within quotes ends none, and one is the head."""

    def __init__(self, *, has_head: bool) -> None:
        self._quoted, self._has_head = False, has_head
        self._lines = 0

    def count(self, part: bytes) -> int:
        """Count on, and return how many there were so far."""
        if not self._has_head:
            self._lines += part.count(b"\n")
            return self.total
        for number, piece in enumerate(part.split(b'"')):
            self._quoted ^= number > 0
            if not self._quoted:
                self._lines += piece.count(b"\n")
        return self.total

    @property
    def total(self) -> int:
        """The rows so far."""
        return max(self._lines - self._has_head, 0)


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    """Where to write. A file is there as a whole or, when something goes wrong, as it was before."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    unfinished = output.with_name(f".{output.name}.{uuid4().hex[:8]}.part")
    try:
        with unfinished.open("xb") as file:
            yield file
        unfinished.replace(output)
    except OSError as error:
        raise StartupError(f"{output} cannot be written: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)


class RowsPerSecond(ProgressColumn):
    """How fast it goes."""

    def render(self, task: Task) -> Text:
        """As many rows a second as lately."""
        return Text(f"{task.speed or 0:,.0f} rows/s")


def _progress() -> Progress:
    return progress_bar(TextColumn("{task.completed:,} jobs"), RowsPerSecond(), TimeElapsedColumn())
