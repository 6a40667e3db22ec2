"""Where the files of a result are: the URLs in it, whatever its shape, and others put in their place.

Every model words its result in its own way (`images`, `gridUrl`, `videoUrl`, `tracks`…), so it is not read by its fields:
each string that is a URL from its first to its last character counts. Nothing is recursive, because how deep a result is
nested is the vendor's word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from app.targets import LONGEST_SOURCE

MOST_FILES: Final = 100
"""That are kept of one result. The largest ones known have five: a grid and its four pictures."""

_URL: Final = re.compile(
    r"""
    https?://
    (?: [^/?\#@\s\x00-\x1f\x7f]* @ )?+  # a user and a password, which are not tried as a host
    [^/?\#@:\s\x00-\x1f\x7f]            # the host, which must not be empty
    [^\s\x00-\x1f\x7f]*
    """,
    re.IGNORECASE | re.VERBOSE,
)


def find_urls(result: Any) -> list[str]:
    """The http and https URLs in decoded JSON, in the order of the document, each once.

    Keys of objects, data URLs and texts that contain a URL among other things do not count.
    """
    found: dict[str, None] = {}
    ahead = [result]
    while ahead:
        value = ahead.pop()
        if isinstance(value, dict):
            ahead.extend(reversed(value.values()))
        elif isinstance(value, list):
            ahead.extend(reversed(value))
        elif isinstance(value, str) and _is_url(value):
            found[value] = None
    return list(found)


def replace_urls(result: Any, found: Mapping[str, str]) -> Any:
    """A copy of decoded JSON in which each string that is a key of `found` gives way to its value; nothing else differs."""
    root = [result]
    unfinished: list[Any] = [root]
    while unfinished:
        branch = unfinished.pop()
        for place, value in list(branch.items() if isinstance(branch, dict) else enumerate(branch)):
            if isinstance(value, dict | list):
                branch[place] = value.copy()
                unfinished.append(branch[place])
            elif isinstance(value, str):
                branch[place] = found.get(value, value)
    return root[0]


def _is_url(text: str) -> bool:
    return len(text) <= LONGEST_SOURCE and _URL.fullmatch(text) is not None
