"""Words for what JSON Schema finds wrong, under the path of the field that is meant. Values are not repeated. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from jsonschema_rs import ValidationError

from app.apiframe.checks import MISSING, UNKNOWN

Fault = tuple[str, str]
"""A path and what is wrong there."""

_TYPES: Final = {"object": "an object", "array": "a list", "integer": "an integer", "null": "null"}
_FORMATS: Final = {"uri": "an http or https URL", "uuid": "a UUID"}
_ENGINE: Final = frozenset({"backtrackLimitExceeded", "regexEngineFailure", "referencing"})
"""What says nothing of the value, only that it could not be checked."""

_CHOICE: Final = frozenset({"anyOf", "oneOf", "oneOfNotValid"})


def tell(errors: Iterable[ValidationError]) -> dict[str, list[str]]:
    """All faults by path, each said once."""
    told: dict[str, list[str]] = {}
    for path, words in _faults(errors):
        said = told.setdefault(path, [])
        if words not in said:
            said.append(words)
    return told


def _faults(errors: Iterable[ValidationError]) -> Iterator[Fault]:
    """The faults; of a field of the wrong type nothing else is said."""
    listed = [error for error in errors if error.kind.name not in _ENGINE]
    mistyped = {tuple(error.instance_path) for error in listed if error.kind.name == "type"}
    for error in listed:
        if error.kind.name == "type" or tuple(error.instance_path) not in mistyped:
            yield from _told(error)


def _told(error: ValidationError) -> Iterator[Fault]:
    kind, value = error.kind.name, error.kind.value
    if kind == "required":
        yield _path(error, value), MISSING
    elif kind in ("additionalProperties", "unevaluatedProperties"):
        yield from ((_path(error, name), UNKNOWN) for name in value)
    elif kind == "falseSchema" and error.schema_path[-1:] == ["additionalProperties"]:
        # An object that may have no fields at all: the library names the object, and its first field's value only.
        yield _path(error), "Must have no fields"
    elif kind in _CHOICE and isinstance(value, list):
        yield from _chosen(error, value)
    else:
        word = _WORDS.get(kind)
        yield _path(error), word(value) if word else f"Is not as the upstream wants it ({kind})"


def _chosen(error: ValidationError, branches: list[list[ValidationError]]) -> Iterator[Fault]:
    """Of several forms tell the faults in the one that was meant, or else which forms there are."""
    here = tuple(error.instance_path)
    decisive = ("type", "enum", "const")
    meant = [
        branch
        for branch in branches
        if branch and not any(each.kind.name in decisive and tuple(each.instance_path) == here for each in branch)
    ]
    if meant:
        yield from _faults(sorted(meant, key=len)[0])
        return
    found = [each for branch in branches for each in branch if tuple(each.instance_path) == here]
    values = [value for each in found for value in _values(each)]
    types = [name for branch in branches for name in _types(branch)]
    forms = ([f"one of {_listed(values)}"] if values else []) + [_type(name) for name in dict.fromkeys(types)]
    yield _path(error), f"Must be {' or '.join(forms)}" if forms else "Must have one form, and has several or none"


def _values(error: ValidationError) -> list[Any]:
    value = error.kind.value
    return list(value) if error.kind.name == "enum" else [value] if error.kind.name == "const" else []


def _types(branch: list[ValidationError]) -> Iterator[str]:
    """The types that a form takes, where it does not say which values."""
    if not any(_values(error) for error in branch):
        yield from (name for error in branch if error.kind.name == "type" for name in error.kind.value)


def _path(error: ValidationError, *more: str) -> str:
    return ".".join(str(part) for part in (*error.instance_path, *more))


def _type(name: str) -> str:
    return _TYPES.get(name, f"a {name}")


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(value if isinstance(value, str) else msgspec.json.encode(value).decode() for value in values)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


_WORDS: Final[Mapping[str, Callable[[Any], str]]] = {
    "type": lambda names: f"Expected {' or '.join(_type(name) for name in sorted(names, key='null'.__eq__))}",
    "enum": lambda values: f"Must be one of {_listed(values)}",
    "const": lambda value: f"Must be {_listed([value])}",
    "minLength": lambda least: f"Must have at least {_count(least, 'character')}",
    "maxLength": lambda most: f"Must have at most {_count(most, 'character')}",
    "minItems": lambda least: f"Must have at least {_count(least, 'item')}",
    "maxItems": lambda most: f"Must have at most {_count(most, 'item')}",
    "minProperties": lambda least: f"Must have at least {_count(least, 'field')}",
    "maxProperties": lambda most: f"Must have at most {_count(most, 'field')}",
    "minimum": lambda least: f"Must be at least {_listed([least])}",
    "maximum": lambda most: f"Must be at most {_listed([most])}",
    "exclusiveMinimum": lambda bound: f"Must be greater than {_listed([bound])}",
    "exclusiveMaximum": lambda bound: f"Must be less than {_listed([bound])}",
    "multipleOf": lambda step: f"Must be a multiple of {_listed([step])}",
    "uniqueItems": lambda _: "Must not have the same item twice",
    "pattern": lambda pattern: f"Must match {pattern}",
    "format": lambda name: f"Must be {_FORMATS.get(name, f'of the format {name}')}",
    "falseSchema": lambda _: UNKNOWN,
}
