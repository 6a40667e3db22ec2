"""What a job makes: its result as the vendor words it, and the files behind the URLs. Files are made when asked for."""

from __future__ import annotations

from typing import Any

from app.simulator import pictures, sounds
from app.simulator.catalog import modality
from app.simulator.job import Job
from app.simulator.pictures import Picture

_PICTURES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_STEMS = ("Vocals", "Instrumental")


def result(job: Job) -> dict[str, Any]:
    """Word a completed job's result by what it makes."""
    kind = modality(job.operation)
    if kind == "video":
        return {"videoUrl": _url(job, names(job)[0])}
    if kind == "music":
        return {"tracks": [_track(job, index, name) for index, name in enumerate(names(job))]}
    if _is_grid(job):
        grid, *images = names(job)
        return {"images": [_url(job, name) for name in images], "gridUrl": _url(job, grid)}
    return {"images": [_url(job, name) for name in names(job)]}


def names(job: Job) -> list[str]:
    """List a job's files. A grid's first one is the grid itself."""
    kind = modality(job.operation)
    if kind == "video":
        return ["0.webp"]
    if kind == "music":
        return [f"{number}.wav" for number in range(2 if job.model == "suno" else 1)]
    return [f"{number}.{_format(job)}" for number in range(5 if _is_grid(job) else 1)]


def make(job: Job, name: str) -> tuple[bytes, str]:
    """Make one of a job's files, with its content type. Takes a while: not for the event loop."""
    kind = modality(job.operation)
    if kind == "music":
        return sounds.compose(_seed(job, name)), "audio/wav"
    if kind == "video":
        return pictures.film(_picture(job, name, shrink=2)), "image/webp"
    return pictures.draw(_picture(job, name)), _PICTURES[_format(job)]


def _is_grid(job: Job) -> bool:
    return job.model == "midjourney" and job.action != "upsample"


def _url(job: Job, name: str) -> str:
    return f"{job.base_url}/files/{job.id}/{name}"


def _track(job: Job, index: int, name: str) -> dict[str, Any]:
    title = _STEMS[index] if job.action == "stems" else f"{job.prompt[:40]} {index + 1}"
    audio = _url(job, name)
    return {"id": f"{job.id}-{index + 1}", "audioUrl": audio, "title": title, "duration": sounds.SECONDS}


def _format(job: Job) -> str:
    chosen = str(job.params.get("output_format") or job.params.get("format") or "jpg")
    return chosen if chosen in _PICTURES else "jpg"


def _seed(job: Job, name: str) -> str:
    """Files depend on the request alone: the same one, sent again, gives the same files."""
    return f"{job.model}|{job.prompt}|{job.params.get('seed')}|{job.action}|{name}"


def _picture(job: Job, name: str, *, shrink: int = 1) -> Picture:
    width, height = _size(job)
    return Picture(
        prompt=job.prompt,
        caption=f"{job.model} · simulated",
        width=max(1, width // shrink),
        height=max(1, height // shrink),
        format=name.rpartition(".")[2],
        quality=_number(job.params.get("output_quality"), 90),
        seed=_seed(job, name),
    )


def _size(job: Job) -> tuple[int, int]:
    width, height = (_number(job.params.get(side), 0) for side in ("width", "height"))
    if 0 < width <= 2048 and 0 < height <= 2048:
        return width, height
    return pictures.size(str(job.params.get("aspect_ratio", "1:1")))


def _number(value: Any, default: int) -> int:
    return int(value) if isinstance(value, int | float) else default
