"""The upstream's operations that create a job from JSON, by their path below `/v2/`."""

from __future__ import annotations

from typing import Final

IMAGES_GENERATE: Final = "images/generate"

_MODALITIES: Final = {"images": "image", "videos": "video", "music": "music"}


def modality_of(operation: str) -> str:
    """What kind of thing an operation makes: `image`, `video` or `music`."""
    first = operation.partition("/")[0]
    return _MODALITIES.get(first, first)
