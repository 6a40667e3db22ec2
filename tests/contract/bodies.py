"""Bodies made from JSON Schemas: the smallest and the largest that fit, each form of each field, and each way not to fit.

It knows the keywords that the vendor's document uses, and fails on any other, so that a new one is not passed over.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final

Schema = dict[str, Any]
Path = tuple[str | int, ...]
Case = tuple[str, dict[str, Any]]
"""What a body is an example of, and the body."""

KNOWN: Final = frozenset(
    {
        *("type", "enum", "anyOf", "format", "pattern", "minLength", "maxLength", "minimum", "maximum"),
        *("exclusiveMinimum", "items", "minItems", "maxItems", "properties", "required", "additionalProperties"),
        *("default", "description"),
    }
)
OWN: Final = ("webhookUrl", "webhookEvents")
LONGEST: Final = 100_000
"""Longer texts are cut to this, because a body may have a mebibyte only."""

URL: Final = "https://pictures.example/a.png"
UUID: Final = "0198a5b0-0000-7000-8000-000000000000"


def valid(schema: Schema, parent: str) -> Iterator[Case]:
    """Bodies that fit: the smallest, the largest, and as many as it takes to have each form of each field in one."""
    schema = without_own(schema)
    smallest, largest = make(schema, whole=False), make(schema, whole=True)
    yield "smallest", _with(smallest, parent)
    yield "largest", _with(largest, parent)
    listed = [(path, list(forms(inner))) for path, inner in fields(schema) if inner.get("type") != "object"]
    for number in range(max(len(each) for _, each in listed)):
        body = copy.deepcopy(smallest)
        for path, each in listed:
            _put(body, schema, path, each[number % len(each)])
        yield f"forms #{number}", _with(body, parent)


def invalid(schema: Schema, parent: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Bodies with one fault each, and the path at which it has to be told."""
    schema = without_own(schema)
    smallest = make(schema, whole=False)
    for path, inner in ((), schema), *fields(schema):
        if inner.get("type") == "object":
            for name in set(inner.get("required", ())) - ({"model", "action"} if not path else set()):
                body = copy.deepcopy(smallest)
                _put(body, schema, path, make(inner, whole=False))
                del _at(body, path)[name]
                yield f"without {_name((*path, name))}", _with(body, parent), _name((*path, name))
            body = copy.deepcopy(smallest)
            _put(body, schema, path, make(inner, whole=False) | {"unheard_of": 1})
            yield f"unknown in {_name(path)}", _with(body, parent), _name((*path, "unheard_of"))
        if path and path not in (("model",), ("action",)):
            for number, (value, more) in enumerate(breaks(inner)):
                body = copy.deepcopy(smallest)
                _put(body, schema, path, value)
                where = _name((*path, *more))
                yield f"{where} broken #{number}", body if path == ("parentJobId",) else _with(body, parent), where


def without_own(schema: Schema) -> Schema:
    """A variant without the fields that Framehook takes out."""
    return schema | {"properties": {name: each for name, each in schema["properties"].items() if name not in OWN}}


def fields(schema: Schema, path: Path = ()) -> Iterator[tuple[Path, Schema]]:
    """Every field, the inner ones after their objects."""
    for name, inner in schema.get("properties", {}).items():
        assert set(inner) <= KNOWN, f"{_name((*path, name))}: the generator does not know all of {sorted(inner)}"
        yield (*path, name), inner
        yield from fields(inner, (*path, name))


def make(schema: Schema, *, whole: bool) -> Any:
    """The smallest value that fits, or the largest with every field."""
    if "anyOf" in schema:
        return make(schema["anyOf"][-1 if whole else 0], whole=whole)
    if "enum" in schema:
        return schema["enum"][-1 if whole else 0]
    kind = _kind(schema)
    if kind == "object":
        names = schema.get("properties", {}) if whole else schema.get("required", ())
        return {name: make(schema["properties"][name], whole=whole) for name in names}
    if kind == "array":
        count = schema.get("maxItems", max(2, schema.get("minItems", 0))) if whole else schema.get("minItems", 0)
        return [make(schema["items"], whole=whole) for _ in range(count)]
    if kind == "boolean":
        return whole
    return _text(schema, whole=whole) if kind == "string" else _number(schema, whole=whole)


def _text(schema: Schema, *, whole: bool) -> str:
    if "format" in schema:
        return URL if schema["format"] == "uri" else UUID
    if "pattern" in schema:
        assert schema["pattern"] == r"^\d+:\d+$", schema["pattern"]
        return "100:1" if whole else "1:1"
    if whole:
        return "é" * min(int(schema.get("maxLength", 50)), LONGEST)
    return "x" * int(schema.get("minLength", 0))


def _number(schema: Schema, *, whole: bool) -> float:
    if whole:
        return float(schema["maximum"]) if "maximum" in schema else 12_345
    least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
    assert isinstance(least, int | float)
    return least


def forms(schema: Schema) -> Iterator[Any]:
    """A value for every alternative of a field, and at both ends of what it may be."""
    if "anyOf" in schema:
        for each in schema["anyOf"]:
            yield from forms(each)
        return
    if "enum" in schema:
        yield from schema["enum"]
        return
    if isinstance(schema["type"], list) and "null" in schema["type"]:
        yield None
    yield make(schema, whole=False)
    yield make(schema, whole=True)


def breaks(schema: Schema) -> Iterator[tuple[Any, Path]]:
    """Values that break one rule each, and where in them that is told."""
    if "anyOf" in schema:
        yield from (("no such thing", ()), (-7.25, ()), ({"not": "this"}, ()))
        return
    kind = _kind(schema)
    yield {"string": 5, "object": [], "array": {}, "boolean": "true"}.get(kind, "5"), ()
    if "null" not in schema["type"]:
        yield None, ()
    if "enum" in schema:
        yield "no such thing" if kind == "string" else -7.25, ()
    elif kind == "string":
        yield from ((text, ()) for text in _bad_texts(schema))
    elif kind in ("number", "integer"):
        yield from ((number, ()) for number in _bad_numbers(schema, kind))
    elif kind == "array":
        item = make(schema["items"], whole=False)
        if schema.get("minItems"):
            yield [item] * (schema["minItems"] - 1), ()
        if "maxItems" in schema:
            yield [item] * (schema["maxItems"] + 1), ()
        for value, more in breaks(schema["items"]):
            yield [value, *[item] * (schema.get("minItems", 1) - 1)], (0, *more)


def _bad_texts(schema: Schema) -> Iterator[str]:
    if "format" in schema:
        yield from ("ftp://pictures.example/a.png", "pictures.example", "") if schema["format"] == "uri" else ("x", "")
    if "pattern" in schema:
        yield from ("1:1\n", "wide", "")
    if schema.get("minLength"):
        yield "x" * (schema["minLength"] - 1)
    if schema.get("maxLength", LONGEST) < LONGEST:
        yield "é" * (schema["maxLength"] + 1)


def _bad_numbers(schema: Schema, kind: str) -> Iterator[float]:
    if kind == "integer":
        yield schema.get("minimum", 0) + 0.5
    if "minimum" in schema:
        yield schema["minimum"] - 1
    if "exclusiveMinimum" in schema:
        yield schema["exclusiveMinimum"]
    if "maximum" in schema:
        yield schema["maximum"] + 1


def _kind(schema: Schema) -> str:
    kind = schema["type"]
    return str(kind[0]) if isinstance(kind, list) else str(kind)


def _put(body: dict[str, Any], schema: Schema, path: Path, value: Any) -> None:
    """Set a field, and make the objects around it that are not there, as small as they can be."""
    if not path:
        body |= value
        return
    for name in path[:-1]:
        schema = schema["properties"][name]
        body = body.setdefault(str(name), make(schema, whole=False))
    body[str(path[-1])] = value


def _at(body: dict[str, Any], path: Path) -> Any:
    for name in path:
        body = body[str(name)]
    return body


def _with(body: dict[str, Any], parent: str) -> dict[str, Any]:
    """The body with a parent that exists, where it names one at all."""
    return body | {"parentJobId": parent} if "parentJobId" in body else body


def _name(path: Path) -> str:
    return ".".join(map(str, path))
