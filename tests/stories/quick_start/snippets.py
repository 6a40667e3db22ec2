"""The README's fenced blocks, by heading and language, so that tests run exactly what a reader copies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

README: Final = Path(__file__).resolve().parents[3] / "README.md"

VARIABLES: Final = ("FRAMEHOOK_URL", "FRAMEHOOK_KEY")
"""What the snippets read from their environment. They are no settings of the service."""

_FENCE: Final = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
_LINE: Final = re.compile(r"^(?:(#+) (.+)|```(\w*))$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Snippet:
    """One fenced block and the nearest heading above it."""

    heading: str
    language: str
    code: str


def read_snippets(text: str) -> list[Snippet]:
    """Every fenced block in order. A line with # inside a block is no heading."""
    found = []
    heading, position = "", 0
    while match := _LINE.search(text, position):
        position = match.end()
        if match[2]:
            heading = match[2]
        elif fence := _FENCE.match(text, match.start()):
            found.append(Snippet(heading, fence[1], fence[2]))
            position = fence.end()
    return found


def one_call() -> str:
    """The call that waits for the picture, in bash."""
    return _blocks("A picture in one call", "bash")


def first_call(language: str) -> str:
    """The first call in one language: all its blocks under its heading, one after the other."""
    return _blocks({"bash": "curl", "python": "Python", "javascript": "JavaScript"}[language], language)


def receiver(language: str) -> str:
    """The receiver of webhooks in one language."""
    return _blocks("Receiving webhooks", language)


def _blocks(heading: str, language: str) -> str:
    snippets = read_snippets(README.read_text(encoding="utf-8"))
    blocks = [one.code for one in snippets if (one.heading, one.language) == (heading, language)]
    assert blocks, f"the README has no {language} under the heading {heading}"
    return "\n".join(blocks)
