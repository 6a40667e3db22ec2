"""Which follow-up action fits which earlier job. Pure."""

from __future__ import annotations

from typing import Any

from app.simulator.catalog import ACTION_MODELS
from app.simulator.job import Job
from app.simulator.replies import refusal

_ON_A_GRID = ("upsample", "variation")


def check_parent(operation: str, body: dict[str, Any], parent: Job | None) -> None:
    """Raise the vendor's 404 or 409 where the action of a body does not fit the job that it names."""
    if parent is None:
        raise refusal(404, "Parent job not found")
    if parent.model != ACTION_MODELS[operation] or parent.status != "COMPLETED":
        raise _unavailable()
    fits = _fits_midjourney if parent.model == "midjourney" else _fits_suno
    if not fits(body, parent):
        raise _unavailable()


def _fits_midjourney(body: dict[str, Any], parent: Job) -> bool:
    """Grid actions take a grid, the others a picture that was chosen from one."""
    return (body["action"] in _ON_A_GRID) == (parent.action != "upsample")


def _fits_suno(body: dict[str, Any], parent: Job) -> bool:
    """Every action takes one of the parent's tracks; separated stems are not tracks."""
    if parent.action == "stems" or not isinstance(parent.result, dict):
        return False
    tracks = parent.result.get("tracks", [])
    if "trackId" in body:
        return any(track.get("id") == body["trackId"] for track in tracks)
    return int(body.get("index", 1)) <= len(tracks)


def _unavailable() -> Exception:
    return refusal(409, "This action is not available for the parent job")
