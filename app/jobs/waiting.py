"""Callers that would rather wait for what their job makes than come again: `Prefer: wait=60`, `Accept: image/*`."""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response

from app.archive.links import links
from app.context import Context
from app.db import AnyRow
from app.http import json_response
from app.jobs.outputs import urls_of
from app.jobs.reading import LONGEST_WAIT_SECONDS, is_over
from app.models.jobs import FINAL

_WAIT: Final = re.compile(r'wait\s*=\s*"?([0-9]+)"?')
_FAMILIES: Final = ("image/", "video/", "audio/")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a submission's headers ask of its answer (RFC 7240, and RFC 9110 of `Accept`).

    `wait_seconds` None: not to wait for the job's end. `types`: the answer should lead to a file of one of these types,
    which may end with `/*`; empty where the job object is wanted.
    """

    respond_async: bool
    wait_seconds: float | None
    types: tuple[str, ...] = ()

    @classmethod
    def parse(cls, headers: Headers) -> Wish:
        """Read the headers. A preference that cannot be read is none, as the RFC has it."""
        return cls._parse(",".join(headers.getlist("prefer")), ",".join(headers.getlist("accept")))

    @classmethod
    @functools.lru_cache(maxsize=256)  # programs say the same with every call
    def _parse(cls, prefer: str, accept: str) -> Wish:
        preferences = [each.strip().lower() for each in prefer.split(",")]
        waits = [match.group(1) for each in preferences if (match := _WAIT.fullmatch(each.partition(";")[0].strip()))]
        accepted = [each.partition(";")[0].strip().lower() for each in accept.split(",")]
        wants_file = all(each.startswith(_FAMILIES) for each in accepted)
        return cls(
            respond_async="respond-async" in preferences,
            wait_seconds=min(float(waits[0]), LONGEST_WAIT_SECONDS) if waits else None,
            types=tuple(accepted) if wants_file else (),
        )

    def is_granted(self, row: AnyRow) -> bool:
        """Whether a job is as far as this asks for: over, and where a file is wanted, that is there or will not be."""
        if not is_over(row) or not self.types or row.files is None:
            return is_over(row)
        files = msgspec.json.decode(row.files)
        statuses = {file["status"] for file in files}
        return "pending" not in statuses or any(self.fits(file) for file in files if file["status"] == "stored")

    def fits(self, file: Mapping[str, Any]) -> bool:
        """Whether a file is of a type that is asked for."""
        kind: str = file["contentType"]
        return any(kind == each or (each.endswith("/*") and kind.startswith(each[:-1])) for each in self.types)


async def answer(ctx: Context, job: Mapping[str, Any], wish: Wish) -> Response:
    """The answer to a submission whose caller waited: the job as it is, or the way to what it made."""
    if job["status"] not in FINAL:
        return json_response({"jobId": job["id"], "status": job["status"]}, status=202)
    if not wish.types:
        return json_response(job)
    if job["status"] != "COMPLETED":
        status = 502 if job["status"] == "FAILED" else 409
        error = job["error"] or f"The job is {job['status']}"
        return json_response({"error": error, "jobId": job["id"], "status": job["status"]}, status=status)
    url = await _find_url(ctx, job, wish)
    if url is None:
        wanted = ", ".join(wish.types)
        return json_response({"error": f"The job made no {wanted}", "jobId": job["id"]}, status=406)
    return json_response(
        {"jobId": job["id"], "status": job["status"], "url": url}, status=303, headers={"Location": _in_ascii(url)}
    )


def _in_ascii(url: str) -> str:
    """A URL as a header may have it: what is not ASCII is percent-encoded, and nothing else."""
    return quote(url, safe=string.printable)


async def _find_url(ctx: Context, job: Mapping[str, Any], wish: Wish) -> str | None:
    """Where the first fitting file is: with us, or where it is not kept (yet) with the upstream, as it gave it.

    Of what type that is, only a file that is kept can tell; those that do not fit are passed over.
    """
    kept = next((file for file in job["files"] if wish.fits(file)), None)
    if kept is not None:
        return (await links(ctx)).signed(UUID(kept["id"]))
    if job["archiveStatus"] == "stored" or job["result"] is None:
        return None
    known = {file[name] for file in job["files"] for name in ("source", "url")}
    urls = urls_of(job["id"], msgspec.json.encode(job["result"]))
    return next((url for url in urls if url not in known and url.partition("?")[0] not in known), None)
