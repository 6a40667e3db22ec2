"""What a completed job made: which files of its result are to be kept, and how those that are kept are shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from app.apiframe.operations import modality_of
from app.archive.links import Links
from app.archive.queries.fetching import NewFile
from app.archive.urls import MOST_FILES, find_urls, replace_urls
from app.db import AnyRow

log = structlog.get_logger()

PURGED_AFTER: Final = timedelta(hours=24)
"""After so long the upstream purges a completed job's files."""

GIVE_UP_AFTER: Final = timedelta(hours=23)
LEAST_CHANCE: Final = timedelta(hours=1)
"""For so long it is tried in any case to keep a file: also for a job of whose end we learned late."""


def files_of(job: AnyRow, modalities: Collection[str], now: datetime) -> list[NewFile]:
    """The files of a job that are to be kept: none, unless it completed and what it makes is kept.

    Where a result has more than MOST_FILES, one more stands for the rest as a whole, which is refused.
    """
    modality = modality_of(job.operation)
    if job.status != "COMPLETED" or job.result is None or modality not in modalities:
        return []
    completed_at = min(job.completed_at, now)
    urls = urls_of(job.id, job.result)
    left_out = len(urls) - MOST_FILES
    if left_out > 0:
        log.warning("result.too_many_files", job=str(job.id), left_out=left_out)
    return [
        NewFile(
            job_id=job.id,
            team_id=job.team_id,
            modality=modality,
            position=position,
            source=source,
            completed_at=completed_at,
            give_up_at=max(completed_at + GIVE_UP_AFTER, now + LEAST_CHANCE),
            refusal=None if position < MOST_FILES else f"more than {MOST_FILES} files: {left_out:,} are left out",
        )
        for position, source in enumerate(urls[: MOST_FILES + 1])
    ]


def urls_of(job_id: object, result: str | bytes) -> list[str]:
    """The URLs in a job's result, in its order; none where that is nested so deep that it cannot be taken apart."""
    try:
        return find_urls(msgspec.json.decode(result))
    except RecursionError:
        log.warning("result.too_deep", job=str(job_id))
        return []


def shape_outputs(job: AnyRow, links: Links | None, now: datetime, *, ours: bool) -> dict[str, Any]:
    """What a job object says of the job's files. `ours`: the URLs in its result lead to those that are kept.

    After the upstream's purge they do so in any case. `links` may be left out for a job that has no files yet.
    """
    files: list[dict[str, Any]] = msgspec.json.decode(job.files) if job.files else []
    kept = [file for file in files if file["status"] == "stored"]
    purged = job.status == "COMPLETED" and now - job.completed_at > PURGED_AFTER
    result = None if job.result is None else msgspec.Raw(job.result.encode())
    if kept and (ours or purged):
        assert links is not None
        urls = {file["source"]: links.signed(UUID(file["id"])) for file in kept}
        result = _with_urls(job, urls) or result
    return {
        "result": result,
        "expired": purged and not (kept and len(kept) == len(files)),
        "archiveStatus": _status({file["status"] for file in files}),
        "files": [_shape(file, links) for file in kept],
    }


def _with_urls(job: AnyRow, urls: Mapping[str, str]) -> msgspec.Raw | None:
    """A job's result with other URLs in it; None where it is nested too deep for that."""
    try:
        return msgspec.Raw(msgspec.json.encode(replace_urls(msgspec.json.decode(job.result), urls)))
    except RecursionError:
        log.warning("result.too_deep", job=str(job.id))
        return None


def _status(statuses: Collection[str]) -> str | None:
    """How far the keeping of a job's files is: the state of the one that is worst off; None: nothing is kept."""
    return next((status for status in ("pending", "failed", "stored") if status in statuses), None)


def _shape(file: Mapping[str, Any], links: Links | None) -> dict[str, Any]:
    assert links is not None
    shown = {"id": file["id"], "url": links.stable(UUID(file["id"]))}
    if file["thumbnail"]:
        shown["thumbnailUrl"] = f"{shown['url']}/thumbnail"
    about = {name: file[name] for name in ("contentType", "bytes", "sha256", "width", "height", "source")}
    return shown | {name: value for name, value in about.items() if value is not None}


def shape_unkept(files: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is said of files that are not kept, or not yet."""
    named = ("id", "source", "status", "reason")
    return [{name: file[name] for name in named} for file in files if file["status"] in ("pending", "failed")]
