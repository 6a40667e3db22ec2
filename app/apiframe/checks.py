"""Checks of single values, each with words for whoever sent them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

Check = Callable[[Any], str | None]
"""Says what is wrong with a value, or None."""

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


def uuid(value: Any) -> str | None:
    """A UUID in the form that has hyphens."""
    try:
        is_one = isinstance(value, str) and str(UUID(value)) == value.lower()
    except ValueError:
        is_one = False
    return None if is_one else "Must be a UUID"
