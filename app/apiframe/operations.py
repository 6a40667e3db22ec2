"""The upstream's operations that create a job from JSON, by their path below `/v2/`."""

from __future__ import annotations

from typing import Final

IMAGES_GENERATE: Final = "images/generate"
IMAGES_UPSCALE: Final = "images/upscale"
IMAGES_EDIT: Final = "images/edit"
IMAGES_BACKGROUND_REMOVE: Final = "images/background-remove"
MIDJOURNEY_ACTION: Final = "images/midjourney/action"
VIDEOS_GENERATE: Final = "videos/generate"
VIDEOS_UPSCALE: Final = "videos/upscale"
VIDEOS_EDIT: Final = "videos/edit"
MUSIC_GENERATE: Final = "music/generate"
SUNO_ACTION: Final = "music/suno/action"

OPERATIONS: Final = (
    IMAGES_GENERATE,
    IMAGES_UPSCALE,
    IMAGES_EDIT,
    IMAGES_BACKGROUND_REMOVE,
    MIDJOURNEY_ACTION,
    VIDEOS_GENERATE,
    VIDEOS_UPSCALE,
    VIDEOS_EDIT,
    MUSIC_GENERATE,
    SUNO_ACTION,
)
ACTIONS: Final = {MIDJOURNEY_ACTION: "midjourney", SUNO_ACTION: "suno"}
"""The operations that go on from an earlier job, and whose jobs those are."""

PARENT: Final = "parentJobId"
"""The field of an action that names the earlier job."""

_MODALITIES: Final = {"images": "image", "videos": "video", "music": "music"}


def modality_of(operation: str) -> str:
    """What kind of thing an operation makes: `image`, `video` or `music`."""
    first = operation.partition("/")[0]
    return _MODALITIES.get(first, first)


def discriminator(operation: str) -> str:
    """The field that says which of an operation's bodies one is: `model`, or of actions `action`."""
    return "action" if operation in ACTIONS else "model"


def fits(action: str, operation: str, model: str) -> bool:
    """Whether an action may go on from a job of this operation and model; which of its results, the upstream judges."""
    family = ACTIONS[action]
    return modality_of(action) == modality_of(operation) and (model == family or model.startswith(f"{family}-"))
