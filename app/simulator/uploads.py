"""Uploaded files: one multipart part, whose kind is told by its first bytes, kept for about an hour."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.simulator.job import stamp
from app.simulator.multipart import parts
from app.simulator.replies import invalid

_MEGABYTE = 1024 * 1024
_LARGEST = {"image": 25 * _MEGABYTE, "audio": 25 * _MEGABYTE, "video": 50 * _MEGABYTE}
# Where to look, what to find there, and what it means.
_MAGIC = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png", "png"),
    (0, b"\xff\xd8\xff", "image/jpeg", "jpg"),
    (0, b"GIF8", "image/gif", "gif"),
    (8, b"WEBP", "image/webp", "webp"),
    (8, b"WAVE", "audio/wav", "wav"),
    (0, b"ID3", "audio/mpeg", "mp3"),
    (0, b"\xff\xfb", "audio/mpeg", "mp3"),
    (0, b"OggS", "audio/ogg", "ogg"),
    (4, b"ftypM4A", "audio/mp4", "m4a"),
    (4, b"ftypqt", "video/quicktime", "mov"),
    (4, b"ftyp", "video/mp4", "mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm", "webm"),
)


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file."""

    id: str
    name: str
    content: bytes
    content_type: str
    expires_at: datetime


def receive(body: bytes, content_type: str, expires_at: datetime) -> Upload:
    """Take the file out of a multipart body; raise the vendor's 400 for none, a type unknown or one too large."""
    content = next((part.content for part in parts(body, content_type) if part.name == "file"), None)
    if content is None:
        raise invalid({"file": ["Required"]})
    kind, extension = sniff(content)
    if len(content) > _LARGEST[kind.split("/")[0]]:
        raise invalid({"file": ["File is too large"]})
    upload_id = str(uuid.uuid4())
    return Upload(upload_id, f"{upload_id}.{extension}", content, kind, expires_at)


def shown(upload: Upload, base_url: str) -> dict[str, Any]:
    """Show an upload as the vendor answers it."""
    return {
        "id": upload.id,
        "url": f"{base_url}/files/uploads/{upload.name}",
        "kind": upload.content_type.split("/")[0],
        "contentType": upload.content_type,
        "byteSize": len(upload.content),
        "expiresAt": stamp(upload.expires_at),
    }


def sniff(content: bytes, field: str = "file") -> tuple[str, str]:
    """Tell a file's type and extension by its first bytes; raise the vendor's 400 for a type unknown."""
    for place, magic, kind, extension in _MAGIC:
        if content[place : place + len(magic)] == magic:
            return kind, extension
    raise invalid({field: ["Unsupported file type"]})
