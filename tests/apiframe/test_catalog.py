"""What a submission may contain: Flux 1.1 Pro Ultra field by field as APIFRAME.md has it, other models untouched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from app.apiframe import catalog

ULTRA: Final = "flux-1.1-pro-ultra"
URL: Final = "https://pictures.example/a.png"
DOCUMENT: Final = Path(__file__).resolve().parents[3] / "shared" / "apiframe-openapi.json"

NO_URLS: Final = (
    "",
    "pictures.example/a.png",
    "/a.png",
    "//pictures.example/a.png",
    "ftp://pictures.example/a.png",
    "javascript:alert(1)",
    "data:image/png;base64,AAAA",
    "file:///etc/passwd",
    "https://",
    "https:///a.png",
    "https://?a=b",
    "https://:443/",
    "https://pictures.example/a b.png",
    " https://pictures.example/a.png",
    "https://pictures.example/a.png\n",
    "https://pictures\t.example/a.png",
    "https://[::1/a.png",
)

TAKEN: Final[dict[str, tuple[Any, ...]]] = {
    # The page's table.
    "image_prompt": (URL, "http://pictures.example", "HTTPS://Pictures.example:8443/a?b=c#d", "http://[::1]:80/a"),
    "image_prompt_strength": (0, 1, 0.0, 1.0, 0.05, 0.123456789),
    "output_format": ("jpg", "png", "webp"),
    "output_quality": (0, 100, 90, 0.0, 90.0, 100.0),
    "raw": (True, False),
    "seed": (0, 1, -1, 2.0, 2**31, 2**63, 2**64),
    "aspect_ratio": ("1:1", "3:4", "4:3", "9:16", "16:9", "21:9", "100:1"),
    # The block that the vendor's document has for all Flux models.
    "go_fast": (True, False),
    "guidance": (1.5, 10, 3),
    "height": (256, 2048, 1024.0),
    "width": (256, 2048),
    "steps": (1, 50),
    "input_images": ([], [URL], [URL] * 10),
    "prompt_upsampling": (True, False),
    "resolution": ("4MP", "match_input_image"),
}

REFUSED: Final[dict[str, tuple[Any, ...]]] = {
    "image_prompt": (*NO_URLS, None, 1, True, [URL], {"url": URL}),
    "image_prompt_strength": (-0.01, 1.01, -1, 2, "0.5", True, False, None, [0.5]),
    "output_format": ("jpeg", "JPG", "", " png", None, 1, True, ["png"], {"png": 1}),
    "output_quality": (-1, 101, 89.5, 100.5, "90", True, None, [90]),
    "raw": (0, 1, "true", "", None, [True]),
    "seed": (0.5, 1.000001, "1", True, None, [1]),
    "aspect_ratio": (
        *("16/9", "16x9", "16:", ":9", ":", "1:1:1", "", " 16:9", "16:9 ", "16:9\n", "-1:1", "1.5:1", "a:b", "16 : 9"),
        *("\u0661:\u0661", None, 1, 1.7, True, ["1:1"]),
    ),
    "go_fast": (1, "true", None),
    "guidance": (1.49, 10.01, "3", True, None),
    "height": (255, 2049, 512.5, "512", None),
    "width": (255, 2049, 512.5, "512", None),
    "steps": (0, 51, 1.5, "1", True, None),
    "input_images": ([URL] * 11, [URL, "ftp://pictures.example"], [None], URL, None, {}),
    "prompt_upsampling": (1, "false", None),
    "resolution": (4, True, None, ["4MP"]),
}


def faults_of(**fields: Any) -> dict[str, list[str]]:
    """What is wrong with a Flux submission; `prompt=...` leaves the prompt out."""
    body = {name: value for name, value in ({"prompt": "a lighthouse"} | fields).items() if value is not ...}
    return catalog.faults("images/generate", {"model": ULTRA, **body})


def cases(table: dict[str, tuple[Any, ...]]) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}={value!r:.40}") for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), cases(TAKEN))
def test_a_parameter_is_taken_in_its_whole_range(name: str, value: Any) -> None:
    assert faults_of(fluxParams={name: value}) == {}


@pytest.mark.parametrize(("name", "value"), cases(REFUSED))
def test_a_parameter_is_refused_out_of_its_range_or_type(name: str, value: Any) -> None:
    faults = faults_of(fluxParams={name: value})

    assert list(faults) == [f"fluxParams.{name}"]
    assert all(faults[f"fluxParams.{name}"])


@pytest.mark.parametrize("prompt", ["a", " ", "\u00e9", "x" * 2000, "\U0001f30a" * 2000], ids=len)
def test_a_prompt_has_1_to_2000_characters_counted_as_code_points(prompt: str) -> None:
    assert faults_of(prompt=prompt) == {}


@pytest.mark.parametrize(
    "prompt",
    [..., "", "x" * 2001, "\U0001f30a" * 2001, None, 5, True, ["a"], {"text": "a"}],
    ids=lambda value: f"{value!r:.20}",
)
def test_a_prompt_that_is_missing_empty_too_long_or_no_string_is_refused(prompt: Any) -> None:
    assert list(faults_of(prompt=prompt)) == ["prompt"]


def test_the_params_block_may_be_left_out_or_empty() -> None:
    assert faults_of() == {}
    assert faults_of(fluxParams={}) == {}


@pytest.mark.parametrize("block", [None, [], "x", 1, True])
def test_a_params_block_that_is_no_object_is_refused(block: Any) -> None:
    assert list(faults_of(fluxParams=block)) == ["fluxParams"]


@pytest.mark.parametrize("name", ["negative_prompt", "Prompt", "fluxparams", "midjourneyParams", "", "prompt ", "raw"])
def test_a_field_that_neither_source_knows_is_refused(name: str) -> None:
    assert list(faults_of(**{name: "x"})) == [name]


@pytest.mark.parametrize("name", ["strength", "Seed", "safety_tolerance", "prompt", "", "outputFormat"])
def test_a_parameter_that_neither_source_knows_is_refused(name: str) -> None:
    assert list(faults_of(fluxParams={name: 1})) == [f"fluxParams.{name}"]


def test_all_faults_are_reported_at_once_each_under_its_path() -> None:
    faults = faults_of(
        prompt="",
        size="big",
        fluxParams={"output_quality": 101, "image_prompt_strength": -0.1, "nope": 1, "seed": 7, "aspect_ratio": "wide"},
    )

    assert set(faults) == {
        "prompt",
        "size",
        "fluxParams.output_quality",
        "fluxParams.image_prompt_strength",
        "fluxParams.nope",
        "fluxParams.aspect_ratio",
    }
    assert all(messages and all(messages) for messages in faults.values())


@pytest.mark.parametrize(
    "body",
    [
        {"model": "midjourney", "prompt": "", "midjourneyParams": {"anything": [1, {"goes": None}]}},
        {"model": "flux-2-pro", "fluxParams": {"output_quality": 1000, "new": True}},
        {"model": "a-model-of-tomorrow", "tomorrowParams": "not even an object", "prompt": 5},
        {"model": "FLUX-1.1-PRO-ULTRA", "prompt": "another name is another model"},
    ],
)
def test_other_models_are_left_to_the_upstream(body: dict[str, Any]) -> None:
    assert catalog.faults("images/generate", body) == {}


@pytest.mark.parametrize("model", [..., None, "", 5, True, [ULTRA], {"id": ULTRA}], ids=repr)
def test_a_submission_must_name_its_model(model: Any) -> None:
    body = {"prompt": "x"} if model is ... else {"prompt": "x", "model": model}

    assert list(catalog.faults("images/generate", body)) == ["model"]


def test_every_field_of_the_vendors_document_is_taken() -> None:
    """The document is reference data beside the project: it says more often than we do when it has grown."""
    if not DOCUMENT.exists():
        pytest.skip(f"the vendor's document is not here: {DOCUMENT}")
    document = json.loads(DOCUMENT.read_text())
    (variant,) = (
        each["properties"]
        for each in document["components"]["schemas"]["GenerateImageRequest"]["oneOf"]
        if ULTRA in each["properties"]["model"]["enum"]
    )

    assert set(variant["fluxParams"]["properties"]) == set(TAKEN)
    assert set(variant) == {"model", "prompt", "fluxParams", "webhookUrl", "webhookEvents"}
    assert (variant["prompt"]["minLength"], variant["prompt"]["maxLength"]) == (1, 2000)
