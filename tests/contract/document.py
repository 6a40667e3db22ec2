"""The vendor's own document, which lies beside the repository where there is one, and what it says of submissions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from app.apiframe.operations import OPERATIONS, discriminator

PLACE: Final = Path(__file__).resolve().parents[3] / "shared" / "apiframe-openapi.json"


def vendor_bytes() -> bytes:
    """The document; skips the test where it is not there."""
    if not PLACE.exists():
        pytest.skip(f"the vendor's OpenAPI document is not at {PLACE}: nothing to hold the service against")
    return PLACE.read_bytes()


def vendor_document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(vendor_bytes())
    return document


def variants(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation with each of its models, or actions, and the schema of that body."""
    for operation in OPERATIONS:
        content = document["paths"][f"/v2/{operation}"]["post"]["requestBody"]["content"]
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for schema in document["components"]["schemas"][name]["oneOf"]:
            (chosen,) = schema["properties"][discriminator(operation)]["enum"]
            yield operation, chosen, schema
