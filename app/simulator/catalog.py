"""The models, as the vendor groups them, and what a body of each may say, as JSON Schemas.

Only Flux 1.1 Pro Ultra's parameters are closed here; other params blocks are taken as they come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Schema = dict[str, Any]
Modality = Literal["image", "video", "music"]

OPERATIONS = (
    "images/generate",
    "images/upscale",
    "images/edit",
    "images/background-remove",
    "images/midjourney/action",
    "videos/generate",
    "videos/upscale",
    "videos/edit",
    "music/generate",
    "music/suno/action",
)
ACTION_MODELS = {"images/midjourney/action": "midjourney", "music/suno/action": "suno"}
FLUX_ULTRA = "flux-1.1-pro-ultra"


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one operation that share a params block. `prompt` is its longest prompt, 0 where there is none."""

    operation: str
    params: str
    models: tuple[str, ...]
    prompt: int
    params_required: bool = False


# The families whose longest prompt is not that of their operation.
_PROMPTS = {
    "wanImage27Params": 5000,
    "grokImagineVideoParams": 5000,
    "hailuoParams": 2000,
    "happyhorse10Params": 2500,
    "happyhorse11Params": 2500,
    "wan27Params": 5000,
    "wan27R2vParams": 5000,
    "murekaParams": 1024,
}


def _family(operation: str, params: str, models: str, prompt: int, *, required: bool = False) -> Family:
    return Family(operation, params, tuple(models.split()), _PROMPTS.get(params, prompt), required)


_IMAGES = (
    ("midjourneyParams", "midjourney"),
    ("nanoBananaParams", "nano-banana nano-banana-pro nano-banana-2 nano-banana-2-lite"),
    ("fluxParams", f"flux-1.1-pro {FLUX_ULTRA} flux-2-pro flux-2-dev flux-2-flex flux-2-max"),
    ("seedreamParams", "seedream-3 seedream-3.1 seedream-4 seedream-4.5 seedream-5-lite seedream-5-pro"),
    (
        "ideogramParams",
        """ideogram-v2 ideogram-v2-turbo ideogram-v2a ideogram-v2a-turbo ideogram-v3-balanced ideogram-v3-turbo
        ideogram-v3-quality ideogram-v4-balanced ideogram-v4-turbo ideogram-v4-quality""",
    ),
    (
        "stableDiffusionParams",
        "stable-diffusion-3.5-large stable-diffusion-3.5-large-turbo stable-diffusion-3.5-medium stable-diffusion-3",
    ),
    ("imagenParams", "imagen-3 imagen-3-fast imagen-4 imagen-4-ultra imagen-4-fast"),
    ("dalleParams", "dall-e-3 dall-e-2"),
    ("gptImageParams", "gpt-image-1.5"),
    ("gptImage2Params", "gpt-image-2"),
    ("klingImageParams", "kling-image"),
    ("qwenImageParams", "qwen-image"),
    ("qwenImage2Params", "qwen-image-2 qwen-image-2-pro"),
    ("wanImageParams", "wan-image-2.6"),
    ("wanImage27Params", "wan-image-2.7 wan-image-2.7-pro"),
    ("grokImagineParams", "grok-imagine-image"),
    ("reveParams", "reve-create"),
)
_VIDEOS = (
    ("klingParams", "kling-2.1 kling-2.1-master kling-2.5-turbo-pro kling-2.6 kling-3.0 kling-3.0-omni"),
    ("soraParams", "sora-2 sora-2-pro"),
    (
        "seedanceParams",
        """seedance-1-lite seedance-1-pro seedance-1-pro-fast seedance-1.5-pro seedance-2 seedance-2-fast
        seedance-2-mini seedance-2.5""",
    ),
    ("veoParams", "veo-2 veo-3 veo-3-fast veo-3.1 veo-3.1-fast veo-3.1-lite"),
    ("grokImagineVideoParams", "grok-imagine-video"),
    ("hailuoParams", "hailuo-02 hailuo-2.3 hailuo-2.3-fast hailuo-03"),
    ("lumaParams", "luma-ray-2 luma-ray-flash-2"),
    ("wanParams", "wan-2.5 wan-2.5-fast wan-2.6 wan-2.6-flash"),
    ("wan27Params", "wan-2.7"),
    ("happyhorse10Params", "happyhorse-1.0"),
    ("happyhorse11Params", "happyhorse-1.1"),
    ("runwayParams", "runway-gen4-turbo runway-gen4.5"),
)
_MUSIC = (
    ("sunoParams", "suno"),
    ("udioParams", "udio"),
    ("producerParams", "producer"),
    ("lyriaParams", "lyria-3-clip lyria-3-pro"),
    ("elevenlabsParams", "elevenlabs-music"),
    ("murekaParams", "mureka"),
)
FAMILIES = (
    *(_family("images/generate", params, models, 2000) for params, models in _IMAGES),
    _family("images/generate", "ideogramParams", "ideogram-character", 2000, required=True),
    _family("images/generate", "fluxLoraParams", "flux-lora", 2000, required=True),
    _family("images/upscale", "topazUpscaleParams", "topaz-image-upscale", 0, required=True),
    _family("images/upscale", "clarityUpscaleParams", "clarity-upscale", 0, required=True),
    _family("images/edit", "fluxFillParams", "flux-fill-pro", 0, required=True),
    _family("images/background-remove", "briaBgRemoveParams", "bria-bg-remove", 0, required=True),
    _family("images/background-remove", "lab851BgRemoveParams", "851-bg-remove", 0, required=True),
    *(_family("videos/generate", params, models, 4000) for params, models in _VIDEOS),
    _family("videos/generate", "klingParams", "kling-3.0-motion-control", 4000, required=True),
    _family("videos/generate", "midjourneyVideoParams", "midjourney-video", 4000, required=True),
    _family("videos/generate", "wan27R2vParams", "wan-2.7-r2v", 4000, required=True),
    _family("videos/upscale", "topazVideoParams", "topaz-video-upscale", 0, required=True),
    _family("videos/edit", "wan27VideoeditParams", "wan-2.7-videoedit", 5000, required=True),
    *(_family("music/generate", params, models, 5000) for params, models in _MUSIC),
)

_URL: Schema = {"type": "string", "format": "uri"}
_SIDE: Schema = {"type": "integer", "minimum": 256, "maximum": 2048}
# The fields of the page come first; the rest belongs to the block that all Flux models share.
FLUX_PARAMS: Schema = {
    "image_prompt": _URL,
    "image_prompt_strength": {"type": "number", "minimum": 0, "maximum": 1},
    "output_format": {"type": "string", "enum": ["jpg", "png", "webp"]},
    "output_quality": {"type": "integer", "minimum": 0, "maximum": 100},
    "raw": {"type": "boolean"},
    "seed": {"type": "integer"},
    "aspect_ratio": {"type": "string", "pattern": r"^\d+:\d+$"},
    "go_fast": {"type": "boolean"},
    "guidance": {"type": "number", "minimum": 1.5, "maximum": 10},
    "height": _SIDE,
    "width": _SIDE,
    "input_images": {"type": "array", "items": _URL, "maxItems": 10},
    "prompt_upsampling": {"type": "boolean"},
    "resolution": {"type": "string"},
    "steps": {"type": "integer", "minimum": 1, "maximum": 50},
}


def text(shortest: int, longest: int) -> Schema:
    """Describe a string of so many characters."""
    return {"type": "string", "minLength": shortest, "maxLength": longest}


def closed(properties: Schema, required: list[str] | None = None) -> Schema:
    """Describe an object that has no other fields."""
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def modality(operation: str) -> Modality:
    """What an operation makes."""
    kinds: dict[str, Modality] = {"images": "image", "videos": "video", "music": "music"}
    return kinds[operation.partition("/")[0]]


def model_bodies(operation: str) -> dict[str, Schema]:
    """Describe an operation's bodies by model, webhook fields left out."""
    bodies: dict[str, Schema] = {}
    for family in FAMILIES:
        if family.operation == operation:
            bodies |= {model: _body(family, model) for model in family.models}
    return bodies


def _body(family: Family, model: str) -> Schema:
    params = closed(FLUX_PARAMS) if model == FLUX_ULTRA else {"type": "object"}
    properties: Schema = {"model": {"type": "string", "enum": [model]}, family.params: params}
    required = ["model"]
    if family.prompt:
        properties["prompt"] = text(1, family.prompt)
        required.append("prompt")
    if family.params_required:
        required.append(family.params)
    return closed(properties, required)


_PARENT: Schema = {"type": "string", "format": "uuid"}
_GRID: Schema = {"index": {"type": "integer", "enum": [1, 2, 3, 4]}}
_TRACK: Schema = {"index": {"type": "integer", "enum": [1, 2]}, "trackId": text(1, 200)}
_SONG: Schema = _TRACK | {"title": text(0, 80), "style": text(0, 1000), "negative_tags": text(0, 500)}
_LYRICS: Schema = {"prompt": text(0, 5000)}
_MIDJOURNEY_ACTIONS: dict[str, tuple[Schema, list[str]]] = {
    "upsample": (_GRID, ["index"]),
    "variation": (_GRID, ["index"]),
    "inpaint": ({"mask": text(1, 12_000_000), "prompt": text(0, 2000)}, ["mask"]),
    "outpaint": ({"zoomRatio": {"type": "number", "enum": [1.5, 2]}}, ["zoomRatio"]),
    "pan": ({"direction": {"type": "string", "enum": ["up", "down", "left", "right"]}}, ["direction"]),
}
_SUNO_ACTIONS: dict[str, tuple[Schema, list[str]]] = {
    "extend": (_SONG | _LYRICS | {"continueAt": {"type": "number", "exclusiveMinimum": 0}}, []),
    "cover": (_SONG | _LYRICS | {"audio_weight": {"type": "number", "minimum": 0, "maximum": 1}}, []),
    "add_vocals": (_SONG | {"prompt": text(1, 5000)}, ["prompt"]),
    "stems": (_TRACK, []),
}


def action_bodies(operation: str) -> dict[str, Schema]:
    """Describe an action operation's bodies by action, webhook fields left out."""
    actions = _MIDJOURNEY_ACTIONS if operation == "images/midjourney/action" else _SUNO_ACTIONS
    return {
        action: closed(
            {"action": {"type": "string", "enum": [action]}, "parentJobId": _PARENT, **properties},
            ["action", "parentJobId", *required],
        )
        for action, (properties, required) in actions.items()
    }


def models(kind: str | None) -> list[dict[str, Any]]:
    """List the curated entries of `GET /v2/models`, of one modality or of all."""
    generating = [family for family in FAMILIES if family.operation.endswith("/generate")]
    return [
        {"id": model, "label": _label(model), "description": f"Simulated {_label(model)}", "modality": made}
        for family in generating
        for model in family.models
        if (made := modality(family.operation)) == kind or kind is None
    ]


def _label(model: str) -> str:
    return " ".join(word[:1].upper() + word[1:] for word in model.split("-"))
