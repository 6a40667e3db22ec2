"""The shapes of kept files: what a job object says of them, their bytes, and links to them that need no key."""

from __future__ import annotations

from typing import Any, Final

from app.reference.shapes import TEXT, TIME, Route, answer, failure, header, query, record, ref

TAG: Final = "files"

_ID: Final = {"type": "string", "format": "uuid"}
_URI: Final = {"type": "string", "format": "uri"}
_SIDE: Final = {"type": "integer", "minimum": 1, "description": "Pixels, as a browser shows it; of pictures only."}
_BYTES: Final = {"type": "integer", "minimum": 1}
_ORIGIN: Final = {"type": "string", "format": "uri", "description": "The upstream's URL, which it purges."}
_CONTENT_TYPE: Final = {
    "type": "string",
    "pattern": "^(image|video|audio)/",
    "description": "As the file's beginning says, not as its source did.",
}
_KEPT: Final = record(
    id=_ID,
    url=_URI | {"description": "Good for as long as the file is kept; it asks for a key."},
    contentType=_CONTENT_TYPE,
    bytes=_BYTES,
    sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"},
    source=_ORIGIN,
)

SCHEMAS: Final[dict[str, Any]] = {
    "File": _KEPT
    | {
        "properties": _KEPT["properties"]
        | {
            "thumbnailUrl": _URI | {"description": "Of pictures that could be decoded."},
            "width": _SIDE,
            "height": _SIDE,
        },
    },
    "FailedFile": record(
        id=_ID,
        source=_ORIGIN,
        status={"enum": ["pending", "failed"], "description": "`pending`: it is tried again."},
        reason={"type": ["string", "null"], "description": "What the last attempt met with."},
    ),
    "FileLink": record(url=_URI, expiresAt=TIME),
}

_NAMED: Final = {
    "ETag": "The file's SHA-256",
    "Content-Disposition": "A name to save the file by",
    "Cache-Control": "A file never changes",
    "Accept-Ranges": "`bytes`",
}


def _headers(**words: str) -> dict[str, Any]:
    return {name: {"schema": TEXT, "description": said} for name, said in words.items()}


def _bytes_of(*content_types: str) -> dict[str, Any]:
    return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in content_types}


def _served(*content_types: str, body: bool = True) -> dict[str, Any]:
    """The answers of a route that answers with a file."""
    content = {"content": _bytes_of(*content_types)} if body else {}
    return {
        "200": {"description": "The whole file", "headers": _headers(**_NAMED)} | content,
        "206": {
            "description": "The part that `Range` asked for",
            "headers": _headers(**_NAMED, **{"Content-Range": "Which part it is, and of how many bytes"}),
        }
        | content,
        "304": {"description": "`If-None-Match` names the file: the caller has it", "headers": _headers(**_NAMED)},
        "404": failure("Your team has no such file, it is not kept (yet), or the link is not good (any more)"),
        "416": {
            "description": "The file has no such part",
            "headers": _headers(**{"Content-Range": "How many bytes it has"}),
        },
    }


_REDIRECT: Final = {
    "307": {
        "description": "With FRAMEHOOK_ARCHIVE_SERVE=redirect: where the storage has the file, for a quarter of an hour",
        "headers": _headers(Location="The storage's own URL"),
    }
}
_FILE: Final = "/v1/files/{file_id}"

ANSWERS: Final[dict[Route, Any]] = {
    ("GET", _FILE): _served("image/*", "video/*", "audio/*") | _REDIRECT,
    ("HEAD", _FILE): _served(body=False) | _REDIRECT,
    ("GET", f"{_FILE}/thumbnail"): _served("image/webp"),
    ("POST", f"{_FILE}/links"): {
        "201": answer(
            "The link",
            ref("FileLink"),
            {
                "url": "https://framehook.example.com/v1/files/01987c5e-c3d4-7a5b-9c6d-7e8f9a0b1c2d"
                "?expires=1795716000&signature=xTR7gSBLPjpWfxwvybL82cn5FXOnxMPUpg4XZmHDkYg",
                "expiresAt": "2026-11-26T18:00:00.000Z",
            },
        ),
        "403": failure("The key lacks the scope"),
        "404": failure("Your team has no such file, or it is not kept (yet)"),
    },
}

BODIES: Final[dict[Route, Any]] = {
    ("POST", f"{_FILE}/links"): {
        "required": False,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "expiresIn": {
                            "type": "integer",
                            "minimum": 1,
                            "maximum": 30 * 24 * 3600,
                            "default": 24 * 3600,
                            "description": "Seconds.",
                        }
                    },
                },
                "example": {"expiresIn": 3600},
            }
        },
    },
}

_ASKED: Final = [
    query("expires", {"type": "integer"}, "Of a signed link, with `signature`: in place of a key"),
    query("signature", TEXT),
    header("Range", "`bytes=FIRST-LAST`: one part; several at once are answered with the whole file"),
    header("If-Range", "The `ETag` of the file that the part must be of"),
    header("If-None-Match", "The `ETag` of the file that the caller has"),
]
_DOWNLOAD: Final = query("download", {"type": "string", "enum": ["true"]}, "Have browsers save the file")

PARAMETERS: Final[dict[Route, Any]] = {
    ("GET", _FILE): [*_ASKED, _DOWNLOAD],
    ("HEAD", _FILE): [*_ASKED, _DOWNLOAD],
    ("GET", f"{_FILE}/thumbnail"): _ASKED,
}
