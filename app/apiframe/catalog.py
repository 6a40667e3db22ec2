"""What a submission may contain, checked before it costs a round trip.

Flux 1.1 Pro Ultra is known by heart, from the product page and the vendor's OpenAPI document together: a field that neither
knows is refused. Other models keep their params untouched, for the upstream to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from app.apiframe.operations import IMAGES_GENERATE

Check = Callable[[Any], str | None]
"""Says what is wrong with a value, or None."""

LONGEST_PROMPT: Final = 2_000
LONGEST_MODEL: Final = 200
UNKNOWN: Final = "Unrecognized field"
MISSING: Final = "Required"


def text(shortest: int = 0, longest: int | None = None) -> Check:
    """A string of so many characters."""

    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            return "Expected a string"
        if len(value) < shortest:
            return f"Must have at least {shortest} character{'s' if shortest > 1 else ''}"
        if longest is not None and len(value) > longest:
            return f"Must have at most {longest} characters"
        return None

    return check


def number(least: float | None = None, most: float | None = None, *, whole: bool = False) -> Check:
    """A number in a range, both ends included; `whole` takes 2.0 for 2, as JSON Schema does."""

    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "Expected an integer" if whole else "Expected a number"
        if whole and value != int(value):
            return "Expected an integer"
        if (least is not None and value < least) or (most is not None and value > most):
            return f"Must be between {least:g} and {most:g}"
        return None

    return check


def boolean(value: Any) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else "Expected a boolean"


def one_of(*values: str) -> Check:
    """One of a few strings."""
    return lambda value: None if value in values else f"Must be one of {', '.join(values)}"


def matching(pattern: str, example: str) -> Check:
    """A string of a form."""
    form = re.compile(pattern)
    return lambda value: None if isinstance(value, str) and form.fullmatch(value) else f"Must have the form {example}"


def http_url(value: Any) -> str | None:
    """An absolute http or https URL."""
    wrong = "Must be an http or https URL"
    if not isinstance(value, str) or re.search(r"[\s\x00-\x1f]", value):
        return wrong
    try:
        parts = urlsplit(value)
        return None if parts.scheme in ("http", "https") and parts.hostname else wrong
    except ValueError:
        return wrong


def list_of(check: Check, most: int) -> Check:
    """A list of at most so many values that each pass."""

    def check_all(value: Any) -> str | None:
        if not isinstance(value, list):
            return "Expected a list"
        if len(value) > most:
            return f"Must have at most {most} items"
        return next((fault for item in value if (fault := check(item))), None)

    return check_all


FLUX_ULTRA: Final = "flux-1.1-pro-ultra"

_FLUX_PARAMS: Final[dict[str, Check]] = {
    "image_prompt": http_url,
    "image_prompt_strength": number(0, 1),
    "output_format": one_of("jpg", "png", "webp"),
    "output_quality": number(0, 100, whole=True),
    "raw": boolean,
    "seed": number(whole=True),
    "aspect_ratio": matching(r"[0-9]+:[0-9]+", "16:9"),
    # The vendor's document has one block for all Flux models; these are meant for the others, and the upstream judges.
    "go_fast": boolean,
    "guidance": number(1.5, 10),
    "height": number(256, 2048, whole=True),
    "width": number(256, 2048, whole=True),
    "steps": number(1, 50, whole=True),
    "input_images": list_of(http_url, 10),
    "prompt_upsampling": boolean,
    "resolution": text(),
}


def faults(operation: str, body: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is wrong with a submission's own fields, by JSON path; empty when there is nothing to say."""
    model = body.get("model")
    fault = MISSING if model is None else text(1, LONGEST_MODEL)(model)
    if fault:
        return {"model": [fault]}
    if operation == IMAGES_GENERATE and model == FLUX_ULTRA:
        return dict(_flux_faults(body))
    return {}


def _flux_faults(body: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    if "prompt" not in body:
        yield "prompt", [MISSING]
    params = body.get("fluxParams", {})
    top = {name: value for name, value in body.items() if name != "fluxParams"}
    yield from _field_faults("", top, {"model": text(), "prompt": text(1, LONGEST_PROMPT)})
    if isinstance(params, dict):
        yield from _field_faults("fluxParams.", params, _FLUX_PARAMS)
    else:
        yield "fluxParams", ["Expected an object"]


def _field_faults(path: str, fields: Mapping[str, Any], checks: Mapping[str, Check]) -> Iterator[tuple[str, list[str]]]:
    for name, value in fields.items():
        check = checks.get(name)
        fault = check(value) if check else UNKNOWN
        if fault:
            yield path + name, [fault]
