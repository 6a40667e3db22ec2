"""What a document of the upstream makes of submissions: the right field is named, and no document blocks anything."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from app.apiframe import catalog
from app.apiframe.rules import Rules

GENERATE: Final = "images/generate"
ULTRA: Final = catalog.FLUX_ULTRA
URL: Final = "https://pictures.example/a.png"


def described(*bodies: Any, operation: str = GENERATE, **components: Any) -> dict[str, Any]:
    """A document with these bodies of one operation."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Body"}}}
    return {
        "openapi": "3.1.0",
        "paths": {f"/v2/{operation}": {"post": {"requestBody": {"content": content}}}},
        "components": {"schemas": {"Body": {"oneOf": list(bodies)}, **components}},
    }


def body(model: str, required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"model": {"type": "string", "enum": [model]}, **properties},
        "required": ["model", *required],
        "additionalProperties": False,
    }


def told(schema: Any, value: Any) -> dict[str, list[str]] | None:
    """What is said of one field."""
    return Rules(described(body("a", x=schema))).faults(GENERATE, {"model": "a", "x": value})


FORM: Final = {"type": "object", "required": ["url"], "properties": {"url": {"type": "string", "format": "uri"}}}


@pytest.mark.parametrize(
    ("schema", "value", "path", "words"),
    [
        ({"type": "string"}, 5, "x", "Expected a string"),
        ({"type": "integer"}, 5.5, "x", "Expected an integer"),
        ({"type": ["array", "null"]}, {}, "x", "Expected a list or null"),
        ({"type": "string", "minLength": 3}, 5, "x", "Expected a string"),
        ({"type": "string", "minLength": 1}, "", "x", "Must have at least 1 character"),
        ({"type": "string", "maxLength": 2}, "abc", "x", "Must have at most 2 characters"),
        ({"type": "number", "minimum": 1.5}, 1, "x", "Must be at least 1.5"),
        ({"type": "number", "maximum": 10}, 10**400, "x", "Must be at most 10"),
        ({"type": "number", "exclusiveMinimum": 0}, 0, "x", "Must be greater than 0"),
        ({"type": "number", "exclusiveMaximum": 1}, 1, "x", "Must be less than 1"),
        ({"type": "number", "multipleOf": 8}, 12, "x", "Must be a multiple of 8"),
        ({"type": "array", "minItems": 1}, [], "x", "Must have at least 1 item"),
        ({"type": "array", "maxItems": 1}, [1, 2], "x", "Must have at most 1 item"),
        ({"type": "array", "uniqueItems": True}, [1, 1], "x", "Must not have the same item twice"),
        ({"type": "string", "pattern": r"^\d+:\d+$"}, "\u0661:\u0661", "x", r"Must match ^\d+:\d+$"),
        ({"type": "string", "format": "uri"}, "ftp://a.example", "x", "Must be an http or https URL"),
        ({"type": "string", "format": "uuid"}, "x", "x", "Must be a UUID"),
        ({"type": "string", "enum": ["jpg", "png"]}, "gif", "x", "Must be one of jpg, png"),
        ({"type": "string", "enum": ["jpg", "png"]}, 5, "x", "Expected a string"),
        ({"const": 5}, 6, "x", "Must be 5"),
        ({"type": "array", "items": {"type": "string"}}, ["a", 5], "x.1", "Expected a string"),
        ({"type": "object", "required": ["a"]}, {}, "x.a", "Required"),
        ({"type": "object", "additionalProperties": False}, {"a": 1}, "x", "Must have no fields"),
        ({"type": "object", "properties": {"a": False}}, {"a": 1}, "x.a", "Unrecognized field"),
        (
            {"anyOf": [{"type": "number", "enum": [5]}, {"type": "number", "enum": [10]}]},
            7,
            "x",
            "Must be one of 5, 10",
        ),
        ({"anyOf": [{"type": "number", "enum": [5]}, {"enum": ["auto"]}]}, [], "x", "Must be one of 5, auto"),
        ({"anyOf": [{"enum": ["auto"]}, {"type": "integer"}]}, "x", "x", "Must be one of auto or an integer"),
        ({"oneOf": [{"type": "string"}, {"type": "object"}]}, 5, "x", "Must be a string or an object"),
        ({"anyOf": [{"type": "string"}, {"type": "integer", "maximum": 9}]}, 10, "x", "Must be at most 9"),
        ({"anyOf": [{"type": "string"}, FORM]}, {"url": "x"}, "x.url", "Must be an http or https URL"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, 5, "x", "Must have one form, and has several or none"),
        ({"not": {"type": "string"}}, "a", "x", "Is not as the upstream wants it (not)"),
    ],
)
def test_a_fault_is_told_in_words_under_the_path_of_its_field(schema: Any, value: Any, path: str, words: str) -> None:
    assert told(schema, value) == {path: [words]}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 5.0),
        ({"type": "number", "enum": [5]}, 5.0),
        ({"type": "string", "format": "uri"}, "HTTP://Pictures.example"),
        ({"type": "string", "format": "uuid"}, "0198A5B0-0000-7000-8000-000000000000"),
        ({"type": "string", "format": "a-format-of-tomorrow"}, "x"),
        ({"type": "string", "maxLength": 2}, "🌊🌊"),
        ({"a-keyword-of-tomorrow": 1}, "x"),
        ({}, None),
    ],
)
def test_what_fits_is_taken(schema: Any, value: Any) -> None:
    assert told(schema, value) == {}


def test_the_model_picks_the_body_so_that_its_own_field_is_named() -> None:
    rules = Rules(described(body("a", p={"type": "integer"}), body("b", ("q",), q={"type": "string"})))

    assert rules.faults(GENERATE, {"model": "a", "p": "x"}) == {"p": ["Expected an integer"]}
    assert rules.faults(GENERATE, {"model": "b", "p": 1}) == {"q": ["Required"], "p": ["Unrecognized field"]}
    assert rules.faults(GENERATE, {"model": "c"}) == {"model": ["Unknown model; there are a, b"]}
    assert rules.lacks(GENERATE, {"model": "c"})
    assert not rules.lacks(GENERATE, {"model": "a"})
    assert not rules.lacks("videos/generate", {"model": "c"})
    assert rules.faults("videos/generate", {"model": "c"}) is None


def test_one_body_may_be_of_several_models_and_one_model_have_several_bodies() -> None:
    several = body("a", p={"type": "integer"})
    several["properties"]["model"] = {"enum": ["a", "b"]}
    constant = body("a", ("q",), q={"type": "string"})
    constant["properties"]["model"] = {"const": "a"}
    rules = Rules(described(several, constant))

    assert rules.faults(GENERATE, {"model": "b", "p": 1}) == {}
    assert rules.faults(GENERATE, {"model": "a", "p": 1}) == {}
    assert rules.faults(GENERATE, {"model": "a", "q": "x"}) == {}
    assert rules.faults(GENERATE, {"model": "a", "q": 1, "r": 1})


def test_an_operation_may_have_a_single_body_and_parts_elsewhere_in_the_document() -> None:
    document = described(
        Side={"type": "integer", "minimum": 8}, Whole=body("a", x={"$ref": "#/components/schemas/Side"})
    )
    document["components"]["schemas"]["Body"] = {"$ref": "#/components/schemas/Whole"}
    document["paths"]["/v2/images/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"] = {
        "$ref": "#/components/schemas/Whole"
    }

    assert Rules(document).faults(GENERATE, {"model": "a", "x": 7}) == {"x": ["Must be at least 8"]}
    assert Rules(document).describe_submissions


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    document = described(body("a"))
    change(document)
    return document


UNUSABLE: Final[dict[str, Any]] = {
    "nothing": {},
    "paths a list": {"paths": []},
    "no schema": changed(lambda document: document["components"]["schemas"].clear()),
    "a schema that is a list": changed(lambda document: document["components"]["schemas"].update(Body=[])),
    "variants that are an object": described() | {"components": {"schemas": {"Body": {"oneOf": {"a": 1}}}}},
    "a variant that is a text": described("a"),
    "a variant without a model": described({"type": "object"}),
    "a model that is any text": described({"properties": {"model": {"type": "string"}}}),
    "models that are numbers": described({"properties": {"model": {"enum": [1, 2]}}}),
    "models that are no list": described({"properties": {"model": {"enum": "ab"}}}),
    "a type that there is not": described(body("a", x={"type": "picture"})),
    "a pattern that is none": described(body("a", x={"pattern": "("})),
    "a reference to nowhere": described(body("a", x={"$ref": "#/components/schemas/Nowhere"})),
    "a reference out of the house": described(body("a", x={"$ref": "http://127.0.0.1:9/schema.json"})),
    "a reference to a file": described(body("a", x={"$ref": "file:///etc/passwd"})),
    "a length that is a text": described(body("a", x={"minLength": "a"})),
    "properties that are a list": described(body("a") | {"allOf": 5}),
}


@pytest.mark.parametrize("document", UNUSABLE.values(), ids=UNUSABLE)
def test_a_document_that_cannot_be_used_judges_nothing(document: dict[str, Any]) -> None:
    rules = Rules(document)

    assert rules.faults(GENERATE, {"model": "a", "x": 5}) is None
    assert catalog.faults(GENERATE, {"model": "a", "x": 5}, rules) == {}
    assert list(catalog.faults(GENERATE, {"model": ULTRA, "nope": 1}, Rules({}))) == ["prompt", "nope"]


def test_one_body_that_cannot_be_compiled_spoils_no_other() -> None:
    rules = Rules(described(body("a", x={"type": "picture"}), body("b", x={"type": "integer"})))

    assert rules.faults(GENERATE, {"model": "a", "x": 5}) is None
    assert rules.faults(GENERATE, {"model": "b", "x": "5"}) == {"x": ["Expected an integer"]}


def test_a_value_that_is_nested_too_deeply_to_be_judged_is_an_error_of_its_own() -> None:
    deep: Any = []
    for _ in range(300):
        deep = [deep]

    with pytest.raises(RecursionError):
        told({"enum": [1, 2]}, deep)


def flux(*params: str, **more: Any) -> Rules:
    """A document that knows only these parameters of Flux 1.1 Pro Ultra."""
    block = {"type": "object", "properties": {name: {} for name in params}, "additionalProperties": False}
    return Rules(described(body(ULTRA, ("prompt",), prompt={"type": "string"}, fluxParams=block, **more)))


def test_what_the_product_page_has_is_good_though_the_document_lacks_it_and_is_checked_all_the_same() -> None:
    submission = {"model": ULTRA, "prompt": "x", "fluxParams": {"image_prompt": URL, "raw": True, "seed": 7}}
    wrong = {"model": ULTRA, "prompt": "x", "fluxParams": {"image_prompt": "x", "raw": 1, "steps": 3, "nope": 1}}

    assert catalog.faults(GENERATE, submission, flux("seed")) == {}
    assert catalog.faults(GENERATE, wrong, flux("seed")) == {
        "fluxParams.image_prompt": ["Must be an http or https URL"],
        "fluxParams.raw": ["Expected a boolean"],
        "fluxParams.steps": ["Unrecognized field"],
        "fluxParams.nope": ["Unrecognized field"],
    }


def test_the_document_goes_before_our_own_rules_of_flux() -> None:
    submission = {"model": ULTRA, "prompt": "", "fluxParams": {"output_quality": 1000, "new": 1}, "alsoNew": 1}

    assert catalog.faults(GENERATE, submission, flux("output_quality", "new", alsoNew={})) == {}


def test_a_block_that_the_document_lacks_altogether_is_judged_by_the_page() -> None:
    rules = Rules(described(body(ULTRA, prompt={"type": "string"})))

    assert catalog.faults(GENERATE, {"model": ULTRA, "prompt": "x", "fluxParams": {"raw": True}}, rules) == {}
    assert list(catalog.faults(GENERATE, {"model": ULTRA, "prompt": "x", "fluxParams": {"raw": 1}}, rules)) == [
        "fluxParams.raw"
    ]


@pytest.mark.parametrize("parent", [..., None, "", "x", 5, [], "0198a5b0000070008000000000000000"], ids=repr)
def test_an_action_must_name_its_parent_whatever_the_document_says(parent: Any) -> None:
    action = {"action": "pan"} | ({} if parent is ... else {"parentJobId": parent})

    assert list(catalog.faults("images/midjourney/action", action)) == ["parentJobId"]


def test_a_typical_body_is_judged_in_well_under_a_millisecond() -> None:
    properties: dict[str, Any] = {name: {"type": "string", "format": "uri"} for name in ("a", "b", "c", "image_prompt")}
    properties["aspect_ratio"] = {"type": "string", "pattern": r"^\d+:\d+$"}
    properties["output_quality"] = {"type": "integer", "minimum": 0, "maximum": 100}
    block = {"type": "object", "properties": properties, "additionalProperties": False}
    prompt = {"type": "string", "minLength": 1, "maxLength": 2000}
    rules = Rules(described(*(body(f"model-{n}", ("prompt",), prompt=prompt, p=block) for n in range(100))))
    submission = {
        "model": "model-50",
        "prompt": "a lighthouse in a storm, " * 40,
        "p": {"image_prompt": URL, "aspect_ratio": "16:9", "output_quality": 90},
    }
    broken = submission | {"p": {"image_prompt": "x", "aspect_ratio": "wide", "nope": 1}}

    first = _milliseconds(lambda: catalog.faults(GENERATE, submission, rules), 1)
    good = _milliseconds(lambda: catalog.faults(GENERATE, submission, rules), 500)
    bad = _milliseconds(lambda: catalog.faults(GENERATE, broken, rules), 500)

    print(f"judging a body: the first {first:.3f} ms, then {good:.3f} ms, one with three faults {bad:.3f} ms (medians)")
    assert good < 1


def _milliseconds(work: Callable[[], Any], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.thread_time()
        work()
        taken.append((time.thread_time() - began) * 1000)
    return statistics.median(taken)
