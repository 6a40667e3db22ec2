"""The commands of jobs on one page."""

from __future__ import annotations

from typing import Final

import typer

from app.cli.jobs import acting, exporting, looking, submitting, watching
from app.cli.options import grouped

jobs = typer.Typer(
    name="jobs",
    help="Find jobs, look into them, follow them, submit them. With --url of a running service, else on its database.",
    no_args_is_help=True,
)

COMMANDS: Final = (
    ("list", looking.list_jobs),
    ("show", looking.show_job),
    ("watch", watching.watch),
    ("submit", submitting.submit_job),
    ("retry", acting.retry_jobs),
    ("cancel", acting.cancel_jobs),
    ("refresh", acting.refresh_jobs),
    ("export", exporting.export_jobs),
)
for name, command in COMMANDS:
    jobs.command(name)(grouped(command))
