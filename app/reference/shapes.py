"""What shapes are made of."""

from __future__ import annotations

from typing import Any, Final

Route = tuple[str, str]
"""A method and a path."""

JOB_ID: Final = "01987c5e-7a2b-7c3d-8e4f-5a6b7c8d9e0f"

TIME: Final = {"type": "string", "format": "date-time"}
TIME_OR_NULL: Final = {"type": ["string", "null"], "format": "date-time"}
TEXT: Final = {"type": "string"}
TEXT_OR_NULL: Final = {"type": ["string", "null"]}
COUNT: Final = {"type": "integer", "minimum": 0}


def ref(name: str) -> dict[str, Any]:
    """A schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object that always has all of these properties."""
    return {"type": "object", "required": list(properties), "properties": properties}


def answer(words: str, schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    """An answer in JSON."""
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"description": words, "content": {"application/json": content}}


FORMAT: Final = {"type": "string", "enum": ["json", "csv", "jsonl"], "default": "json"}


def exported(usual: dict[str, Any]) -> dict[str, Any]:
    """An answer that also comes as a file."""
    lines = {"schema": {"type": "string", "format": "binary"}}
    return usual | {"content": {**usual["content"], "text/csv": lines, "application/jsonl": lines}}


def failure(words: str) -> dict[str, Any]:
    """An answer in Apiframe's envelope of errors."""
    return answer(words, {"$ref": "#/components/schemas/Error"})


def query(name: str, schema: dict[str, Any], words: str = "") -> dict[str, Any]:
    """A parameter of the query, which may be left out."""
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": words}


def header(name: str, words: str) -> dict[str, Any]:
    """A header that may be left out."""
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": words}
