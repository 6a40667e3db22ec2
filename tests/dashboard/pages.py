"""What an operator sees of a page: its words without the markup, and the parts of it that have ids or classes."""

from __future__ import annotations

import re
from html import unescape
from typing import Final

_TAG: Final = re.compile(r"<[^>]*>")


def text_of(html: str) -> str:
    """The words of a piece of HTML, spaces made single."""
    return " ".join(unescape(_TAG.sub(" ", html)).split())


def region(html: str, id_: str) -> str:
    """The HTML of a page from the element with this id on, to the next part that refreshes live or the page's end."""
    _, found, rest = html.partition(f'id="{id_}"')
    assert found, f"there is no {id_}"
    return re.split(r'id="[a-z]+" data-live', rest)[0].partition(">")[2]


def situation(html: str) -> str:
    """What a job's page says is going on."""
    found = re.search(r'<p class="situation[^>]*>(.*?)</p>', html, re.DOTALL)
    assert found, html[:500]
    return text_of(found[1])
