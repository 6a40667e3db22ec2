"""What a submission may contain, checked before it costs a round trip.

Where the upstream's own document is known, that is the rule. Flux 1.1 Pro Ultra is known by heart besides, from the product
page: its fields are good though the document should lack them, and they are checked where there is no document. Without
one, other models keep their params untouched, for the upstream to judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from app.apiframe.checks import (
    MISSING,
    UNKNOWN,
    Check,
    boolean,
    http_url,
    list_of,
    matching,
    number,
    one_of,
    text,
    uuid,
)
from app.apiframe.operations import ACTIONS, IMAGES_GENERATE, PARENT
from app.apiframe.rules import Rules

Faults = dict[str, list[str]]
"""What is wrong, by JSON path."""

LONGEST_PROMPT: Final = 2_000
LONGEST_MODEL: Final = 200

FLUX_ULTRA: Final = "flux-1.1-pro-ultra"

_PAGE: Final[dict[str, Check]] = {
    "image_prompt": http_url,
    "image_prompt_strength": number(0, 1),
    "output_format": one_of("jpg", "png", "webp"),
    "output_quality": number(0, 100, whole=True),
    "raw": boolean,
    "seed": number(whole=True),
    "aspect_ratio": matching(r"[0-9]+:[0-9]+", "16:9"),
}
"""The params that the product page documents."""

_FLUX_PARAMS: Final[dict[str, Check]] = {
    **_PAGE,
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
_OF_THE_PAGE: Final = frozenset({"prompt", "fluxParams", *(f"fluxParams.{name}" for name in _PAGE)})


def essential_faults(operation: str, body: Mapping[str, Any]) -> Faults:
    """What is wrong with the fields that a job cannot be without: its model, or the job that it goes on from."""
    if operation in ACTIONS:
        fault = uuid(body[PARENT]) if PARENT in body else MISSING
        return {PARENT: [fault]} if fault else {}
    model = body.get("model")
    fault = MISSING if model is None else text(1, LONGEST_MODEL)(model)
    return {"model": [fault]} if fault else {}


def faults(operation: str, body: Mapping[str, Any], rules: Rules | None = None) -> Faults:
    """What is wrong with a submission's own fields, by JSON path; empty when there is nothing to say."""
    essential = essential_faults(operation, body)
    if "model" in essential:
        return essential
    documented = rules.faults(operation, body) if rules else None
    if operation != IMAGES_GENERATE or body["model"] != FLUX_ULTRA:
        return (documented or {}) | essential
    return dict(_flux_faults(body)) if documented is None else _spare_the_page(documented, body)


def _spare_the_page(documented: Faults, body: Mapping[str, Any]) -> Faults:
    """Judge by our own rules what the page documents and the document does not know."""
    spared = tuple(path for path, said in documented.items() if said == [UNKNOWN] and path in _OF_THE_PAGE)
    if not spared:
        return documented
    ours = {
        path: said for path, said in _flux_faults(body) if f"{path}.".startswith(tuple(f"{one}." for one in spared))
    }
    return {path: said for path, said in documented.items() if path not in spared} | ours


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
