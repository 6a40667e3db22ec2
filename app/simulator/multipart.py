"""Forms with files (RFC 7578), read whole: what the vendor's few multipart routes take. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NAME = re.compile(rb'[; ]name="([^"]*)"')
_FILE_NAME = re.compile(rb'[; ]filename="')


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form, a file where it came with a file's name."""

    name: str
    content: bytes
    is_file: bool


def parts(body: bytes, content_type: str) -> Iterator[Part]:
    """Read the fields of a form in their order; none where it is no form."""
    boundary = content_type.partition("boundary=")[2].partition(";")[0].strip('" ').encode()
    if not boundary:
        return
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if name is not None:
            yield Part(name[1].decode(errors="replace"), content, _FILE_NAME.search(head) is not None)
