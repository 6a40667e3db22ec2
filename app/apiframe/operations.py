"""The upstream's operations that create a job from JSON, by their path below `/v2/`."""

from __future__ import annotations

from typing import Final

IMAGES_GENERATE: Final = "images/generate"
