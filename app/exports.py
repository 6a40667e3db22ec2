"""Answer with a list of any length, as CSV or as a line of JSON for each row, while it is read page by page.

No more than a page is in memory, and no connection is held while the client reads. What breaks off is cut off: whoever got
to a clean end has all of it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.errors import Invalid

Format = Literal["csv", "jsonl"]
Page = Sequence[Mapping[str, Any]]

CSV: Final = "text/csv"
JSON_LINES: Final = "application/jsonl"

_FORMATS: Final[Mapping[str, Format | None]] = {"json": None, "csv": "csv", "jsonl": "jsonl"}
_ACCEPTED: Final[Mapping[str, Format]] = {CSV: "csv", JSON_LINES: "jsonl", "application/x-ndjson": "jsonl"}
_MEDIA_TYPES: Final[Mapping[Format, str]] = {"csv": f"{CSV}; charset=utf-8; header=present", "jsonl": JSON_LINES}

PAGE: Final = 1000
"""Rows that are read at once."""


def wanted_format(request: Request) -> Format | None:
    """In what a request wants its answer, by `format` or else by what it accepts first; None: in JSON, a page of it.

    Raises Invalid for a `format` that there is not.
    """
    if (name := request.query_params.get("format")) is not None:
        if name not in _FORMATS:
            raise Invalid(details={"format": [f"Must be one of {', '.join(_FORMATS)}"]})
        return _FORMATS[name]
    first = request.headers.get("accept", "").partition(",")[0].partition(";")[0]
    return _ACCEPTED.get(first.strip().lower())


def read_most(query: Mapping[str, str]) -> int | None:
    """How many rows at most an export may have, as `limit` says; None: all. Raises Invalid."""
    text = query.get("limit")
    if text is None:
        return None
    if text.isascii() and text.isdecimal() and len(text) < 16 and int(text) > 0:
        return int(text)
    raise Invalid(details={"limit": ["Expected how many rows to export at most"]})


async def export(
    wanted: Format, name: str, columns: Sequence[str], pages: AsyncGenerator[Page, None]
) -> StreamingResponse:
    """The answer, as a file of this name. CSV has these columns of each row; a line of JSON has all that is in it.

    The first page is read before anything is sent, so that what it raises becomes the answer.
    """
    first = await anext(pages, None)
    body = _write(wanted, columns, first, pages)
    return StreamingResponse(body, media_type=_MEDIA_TYPES[wanted], headers=_headers(wanted, name))


def export_page(wanted: Format, name: str, columns: Sequence[str], rows: Page) -> Response:
    """The same of what is at hand."""
    text = _lines(wanted, columns, rows, first=True)
    return Response(text, media_type=_MEDIA_TYPES[wanted], headers=_headers(wanted, name))


def _headers(wanted: Format, name: str) -> dict[str, str]:
    return {
        "Content-Disposition": f'attachment; filename="{name}.{wanted}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }


async def _write(
    wanted: Format, columns: Sequence[str], first: Page | None, pages: AsyncGenerator[Page, None]
) -> AsyncIterator[bytes]:
    try:
        if head := _lines(wanted, columns, first or (), first=True):
            yield head
        async for page in pages:
            if page:
                yield _lines(wanted, columns, page)
    finally:
        await pages.aclose()


def _lines(wanted: Format, columns: Sequence[str], rows: Page, *, first: bool = False) -> bytes:
    if wanted == "csv":
        return as_csv(columns, rows, header=first).encode()
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, header: bool = True) -> str:
    """CSV (RFC 4180), with a header line unless told otherwise."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    if header:
        writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return file.getvalue()


def _cell(value: Any) -> str:
    """A value as text: nothing for None, JSON for what has parts. What others wrote is not to become a formula."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value[:1] in _FORMULAS else value
    if isinstance(value, bool | dict | list | msgspec.Raw):
        return msgspec.json.encode(value).decode()
    return str(value)


_FORMULAS: Final = frozenset("=+-@\t\r")
"""What a spreadsheet takes for the beginning of one (OWASP, CSV injection). A quote before it makes it text."""
