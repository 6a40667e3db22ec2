"""The upstream's own rules: the request schemas of its OpenAPI document, compiled when they are first needed.

A document is not ours to trust: whatever part of it cannot be read or compiled is left aside, and what it would have judged
is judged as if there were no document. Nothing is ever fetched to complete it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import jsonschema_rs
import msgspec
import structlog

from app.apiframe import checks
from app.apiframe.operations import OPERATIONS, discriminator
from app.apiframe.wording import tell

log = structlog.get_logger()

Schema = Mapping[str, Any]

_FORMATS: Final = {
    "uri": lambda value: checks.http_url(value) is None,  # the upstream fetches what it is given
    "uuid": lambda value: checks.uuid(value) is None,
}


class Rules:
    """What one document says of submissions."""

    def __init__(self, document: Schema) -> None:
        self._document = document
        self._operations: dict[str, dict[str, Schema]] = {}
        self._compiled: dict[tuple[str, str], jsonschema_rs.Draft202012Validator | None] = {}

    @property
    def describe_submissions(self) -> bool:
        """Whether it is a document of this upstream at all, and not something else that came under its address."""
        return any(self._variants(operation) for operation in OPERATIONS)

    def lacks(self, operation: str, body: Mapping[str, Any]) -> bool:
        """Whether the operation is described, but not the body's model, or action: the document may be older than that."""
        variants, chosen = self._variants(operation), body.get(discriminator(operation))
        return bool(variants) and isinstance(chosen, str) and chosen not in variants

    def faults(self, operation: str, body: Mapping[str, Any]) -> dict[str, list[str]] | None:
        """What is wrong with a body, by JSON path; None where the document does not say. Raises RecursionError."""
        variants, field = self._variants(operation), discriminator(operation)
        if not variants:
            return None
        chosen = body.get(field)
        if not isinstance(chosen, str) or chosen not in variants:
            return {field: [_no_variant(field, chosen, variants)]}
        validator = self._validator(operation, chosen)
        if validator is None:
            return None
        try:
            return tell(validator.iter_errors(body))
        except ValueError as error:  # its word for a value that is nested more than 255 levels deep
            raise RecursionError(str(error)) from None

    def _variants(self, operation: str) -> dict[str, Schema]:
        """The bodies of an operation by model, or action; empty where they cannot be told apart."""
        if operation not in self._operations:
            self._operations[operation] = self._read_variants(operation)
        return self._operations[operation]

    def _read_variants(self, operation: str) -> dict[str, Schema]:
        way = ("paths", f"/v2/{operation}", "post", "requestBody", "content", "application/json", "schema")
        whole = self._resolved(_at(self._document, way))
        listed = whole.get("oneOf") or whole.get("anyOf") or [whole]
        variants: dict[str, list[Schema]] = {}
        for schema in map(self._resolved, listed if isinstance(listed, list) else []):
            values = list(_values(_at(schema, ("properties", discriminator(operation)))))
            if not values:
                return {}
            for value in values:
                variants.setdefault(value, []).append(schema)
        return {value: each[0] if len(each) == 1 else {"anyOf": each} for value, each in variants.items()}

    def _resolved(self, schema: Any) -> Schema:
        """A schema, or the one of the same document that it refers to."""
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if isinstance(reference, str) and reference.startswith("#/"):
            schema = _at(self._document, reference[2:].split("/"))
        return schema if isinstance(schema, dict) else {}

    def _validator(self, operation: str, chosen: str) -> jsonschema_rs.Draft202012Validator | None:
        place = operation, chosen
        if place not in self._compiled:
            self._compiled[place] = self._compile(operation, chosen)
        return self._compiled[place]

    def _compile(self, operation: str, chosen: str) -> jsonschema_rs.Draft202012Validator | None:
        schema = dict(self._variants(operation)[chosen])
        if b'"$ref"' in msgspec.json.encode(schema):
            schema["components"] = self._document.get("components")
        try:
            return jsonschema_rs.Draft202012Validator(schema, formats=_FORMATS, validate_formats=True, offline=True)
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            log.warning("catalog.unusable", operation=operation, variant=chosen, error=str(error)[:200])
            return None


def _no_variant(field: str, chosen: Any, variants: Mapping[str, Schema]) -> str:
    if chosen is None:
        return checks.MISSING
    if not isinstance(chosen, str):
        return "Expected a string"
    return f"Unknown {field}; there {'are' if len(variants) > 1 else 'is'} {', '.join(variants)}"


def _at(value: Any, way: Any) -> Any:
    """What is found by names one inside the other, None where the way ends."""
    for name in way:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _values(schema: Any) -> Iterator[str]:
    """The strings that a field may be."""
    if isinstance(schema, dict):
        listed = schema.get("enum", [schema.get("const")])
        yield from (value for value in (listed if isinstance(listed, list) else ()) if isinstance(value, str))
