"""The simulator against the vendor's own OpenAPI document, where that lies beside the project."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.simulator.catalog import FAMILIES, OPERATIONS
from app.simulator.config import SimulatorConfig
from app.simulator.document import openapi
from app.simulator.server import RunningSimulator
from tests.simulator.walks import STYLE, SUBMIT, ended, flux, pictures, submit

DOCUMENT = Path(__file__).resolve().parents[3] / "shared" / "apiframe-openapi.json"
PYTHON_TYPES = {"string": str, "object": dict, "array": list, "boolean": bool, "null": type(None)}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    if not DOCUMENT.exists():
        pytest.skip(f"the vendor's document is not here: {DOCUMENT}")
    return dict(json.loads(DOCUMENT.read_text()))


def misfits(value: Any, schema: dict[str, Any], document: dict[str, Any], path: str = "") -> Iterator[str]:
    """Find where a value does not fit. A field too many is no misfit."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema and all(list(misfits(value, each, document, path)) for each in schema["anyOf"]):
        yield f"{path}: fits nothing of anyOf"
    kinds = schema.get("type", [])
    if kinds and not any(is_of(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        yield f"{path}: {value!r} is no {kinds}"
    elif isinstance(value, dict):
        yield from (f"{path}.{name} is missing" for name in schema.get("required", ()) if name not in value)
        for name in set(schema.get("properties", ())) & set(value):
            yield from misfits(value[name], schema["properties"][name], document, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from misfits(item, schema.get("items", {}), document, f"{path}[{index}]")
    elif not is_within(value, schema):
        yield f"{path}: {value!r} is out of bounds"


def is_within(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value that is no container keeps the bounds, the choice and the format."""
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return False
    if schema.get("format") == "date-time" and value and not re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{3}Z", value):
        return False
    return value in schema.get("enum", [value])


def is_of(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else int | float) and not isinstance(value, bool)
    return isinstance(value, PYTHON_TYPES[kind])


def test_answers_have_the_shapes_of_the_vendors_document(
    document: dict[str, Any], simulator: RunningSimulator, vendor: httpx.Client
) -> None:
    accepted = vendor.post(SUBMIT, json=flux()).json()
    completed = ended(vendor, accepted["jobId"])
    simulator.tell("faults", next=["fail", "cancel"])
    failed, cancelled = (ended(vendor, submit(vendor)) for _ in range(2))
    simulator.tell("config", hold=True, credits=2, cost=0)
    queued = vendor.get(f"/v2/jobs/{submit(vendor)}").json()
    listed = vendor.get("/v2/jobs?include_models=true").json()
    me, models = vendor.get("/v2/me").json(), vendor.get("/v2/models").json()
    simulator.tell("config", cost=3)
    upload = vendor.post("/v2/uploads", files={"file": b"\x89PNG\r\n\x1a\n"}).json()
    lora = vendor.post("/v2/loras", data=STYLE, files=pictures()).json()
    asset = vendor.post("/v2/assets/create", json={"url": "https://example.com/a.png", "type": "image"}).json()
    answers = {
        "Lora": [vendor.get(f"/v2/loras/{lora['id']}").json()],
        "LoraCreated": [lora],
        "LoraList": [vendor.get("/v2/loras").json()],
        "AssetCreated": [asset],
        "JobAccepted": [accepted],
        "Job": [completed, failed, cancelled, queued],
        "JobList": [listed],
        "Me": [me],
        "ModelCatalog": [models],
        "Upload": [upload],
        "InsufficientCredits": [vendor.post(SUBMIT, json=flux()).json()],
        "ValidationError": [vendor.post(SUBMIT, json={}).json()],
        "ErrorResponse": [vendor.get("/v2/jobs/00000000-0000-0000-0000-000000000000").json()],
    }
    assert len(listed["jobs"]) == 4
    for name, values in answers.items():
        for value in values:
            assert list(misfits(value, {"$ref": f"/{name}"}, document)) == []


def request_bodies(document: dict[str, Any], operation: str) -> dict[str, dict[str, Any]]:
    """Give an operation's body schemas by model or action."""
    body = document["paths"][f"/v2/{operation}"]["post"]["requestBody"]
    name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    variants = document["components"]["schemas"][name]["oneOf"]
    return {(each["properties"].get("model") or each["properties"]["action"])["enum"][0]: each for each in variants}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_our_bodies_have_the_fields_of_the_vendors(document: dict[str, Any], operation: str) -> None:
    theirs, ours = request_bodies(document, operation), request_bodies(openapi(SimulatorConfig()), operation)
    assert set(ours) == set(theirs)
    for name, body in ours.items():
        assert set(body["properties"]) == set(theirs[name]["properties"]), name
        assert set(body["required"]) == set(theirs[name]["required"]), name
        if "prompt" in body["properties"]:
            assert body["properties"]["prompt"].get("maxLength") == theirs[name]["properties"]["prompt"]["maxLength"]


def test_the_flux_fields_have_the_bounds_of_the_vendors(document: dict[str, Any]) -> None:
    model = "flux-1.1-pro-ultra"
    theirs = request_bodies(document, "images/generate")[model]["properties"]["fluxParams"]
    assert request_bodies(openapi(SimulatorConfig()), "images/generate")[model]["properties"]["fluxParams"] == theirs


def test_no_model_is_listed_twice() -> None:
    models = [(family.operation, model) for family in FAMILIES for model in family.models]
    assert len(models) == len(set(models))
