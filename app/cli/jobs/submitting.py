"""`submit`: hand in a job from a terminal, wait for what it makes, and fetch that."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from app.apiframe.operations import OPERATIONS
from app.cli.jobs.downloads import download
from app.cli.jobs.following import check_completed, follow_for, print_results
from app.cli.options import Where
from app.cli.reach import Service, reach
from app.cli.terminal import AsJson, out, print_json, run
from app.errors import StartupError


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Whether a job is waited for, and what is done then."""

    wait: Annotated[bool, typer.Option("--wait", help="Wait for the job's end, and print where its results are.")] = (
        False
    )
    wait_seconds: Annotated[float | None, typer.Option(min=1, help="The same, for so long at most.")] = None
    download: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The same, and save the results there.", file_okay=False)
    ] = None

    @property
    def waits(self) -> bool:
        """Whether any of it was asked for."""
        return self.wait or self.wait_seconds is not None or self.download is not None


def submit_job(
    operation: Annotated[str, typer.Argument(help="Such as images/generate.")],
    where: Where,
    patience: Patience,
    body: Annotated[
        str | None, typer.Argument(metavar="[BODY]", help="A file with the JSON body, or - for standard input.")
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A field: JSON, or else a text. a.b=1 sets b within a."),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Whatever is repeated with the same key is submitted once.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job and print its id. Exit code 1 if it was refused or, where it was waited for, did not complete.

    A job belongs to the key that it was submitted with, so a key is needed in any case.
    """
    if operation not in OPERATIONS:
        raise StartupError(f"there is no operation {operation}; there are {', '.join(OPERATIONS)}")
    if not where.key.strip():
        raise StartupError("a job belongs to a key: --key, or FRAMEHOOK_KEY in the environment")
    raw = json.dumps(with_fields(_read_body(body), fields or ())).encode()
    headers = {"Content-Type": "application/json"}
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key

    async def work() -> dict[str, Any]:
        async with reach(where, sends=True) as service:
            answer = dict(await service.ask("POST", f"/v2/{operation}", body=raw, headers=headers))
            if not as_json:
                out.print(answer["jobId"], soft_wrap=True)
            return await _await_end(service, answer["jobId"], patience, as_json) if patience.waits else answer

    answer = run(work())
    if as_json:
        print_json(answer)
    if patience.waits:
        check_completed(answer)


async def _await_end(service: Service, job_id: str, patience: Patience, as_json: bool) -> dict[str, Any]:
    job = await follow_for(service, job_id, patience.wait_seconds, quiet=as_json)
    if job["status"] != "COMPLETED":
        return job
    if patience.download is None:
        if not as_json:
            print_results(job)
        return job
    saved = await download(service, job, patience.download, quiet=as_json)
    if not as_json:
        for path in saved:
            out.print(str(path), markup=False, soft_wrap=True)
    return job | {"saved": [str(path) for path in saved]}


def _read_body(given: str | None) -> Any:
    if given is None:
        return {}
    name = "standard input" if given == "-" else given
    try:
        raw = sys.stdin.buffer.read() if given == "-" else Path(given).read_bytes()
        return json.loads(raw)
    except OSError as error:
        raise StartupError(f"{name} cannot be read: {error.strerror}") from None
    except ValueError:
        raise StartupError(f"{name} is not valid JSON") from None


def with_fields(body: Any, pairs: Iterable[str]) -> dict[str, Any]:
    """A body with more fields, each as `key=value`; raises StartupError for what is none, or no object."""
    if not isinstance(body, dict):
        raise StartupError("the body must be a JSON object")
    for pair in pairs:
        path, equals, text = pair.partition("=")
        *within, name = path.split(".")
        if not (equals and all((*within, name))):
            raise StartupError(f"--set must be KEY=VALUE, not {pair}")
        place = body
        for step in within:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise StartupError(f"--set {pair}: {step} is no object")
        place[name] = _value(text)
    return body


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
