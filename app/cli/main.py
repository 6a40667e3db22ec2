"""Every command on one page. Errors are one line and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys

import typer

from app import serving
from app.cli import running
from app.cli.files import files
from app.cli.jobs.group import jobs
from app.cli.keys import keys
from app.cli.listen import listen
from app.cli.pruning import prune
from app.cli.subscriptions import subscriptions
from app.cli.teams import teams
from app.cli.terminal import printable, tell
from app.db import OUTAGES, is_outage
from app.errors import ApiError, StartupError

app = typer.Typer(
    name="framehook",
    help="Apiframe's own calls, with every job kept, tracked and never paid twice.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    *(running.serve, running.worker, running.migrate, running.doctor, running.pause, running.resume),
    *(prune, listen, running.demo, running.simulate, running.faults, running.bench),
):
    app.command()(command)
for group in (teams, keys, jobs, subscriptions, files):
    app.add_typer(group)


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
    except BrokenPipeError:
        # Whoever read has had enough, as `head` has. Python would try to write the rest when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def fail(line: str) -> None:
    """Say what is wrong and leave."""
    tell(f"framehook: {printable(line)}")
    sys.exit(1)
