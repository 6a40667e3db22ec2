"""What a picture looks like from outside: its size and a small copy of it, from bytes that nobody vouches for.

A picture is decoded only where its header says that this takes little memory, and only by the five decoders named here.
All of it is work for the CPU, 50 to 600 ms for 4096 by 4096 pixels, so it is called in a thread; nothing is kept between
calls, and calls may overlap. Each takes up to sixteen bytes of memory for every pixel that it decodes.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from PIL import ExifTags, Image, ImageCms
from PIL.AvifImagePlugin import AvifImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from app.archive.media import AVIF, GIF, JPEG, PNG, SNIFFED, WEBP, MediaType, sniff

MOST_PIXELS: Final = 25_000_000
"""Of what is decoded: 5000 by 5000, above the 4096 by 4096 of the largest models, and some 400 MB at worst.

A JPEG comes out of its decoder at an eighth of its sides where a thumbnail needs no more, so it may be 64 times as large.
"""

MOST_SCANS: Final = 100
"""Of a JPEG that is decoded; encoders write up to a dozen. Each takes the time of all pixels, for as little as 42 bytes."""

THUMBNAIL_SIDE: Final = 320
"""Pixels of a thumbnail's longer side, at most: a column of a gallery, sharp on screens of double density."""

_QUALITY: Final = 75
_EFFORT: Final = 2
"""Of the WebP encoder, from 0 to 6. From 3 on it takes two to eight times as long, for files that are hardly smaller."""

_READERS: Final[Mapping[MediaType, type[ImageFile]]] = {
    PNG: PngImageFile,
    JPEG: JpegImageFile,
    GIF: GifImageFile,
    WEBP: WebPImageFile,
    AVIF: AvifImageFile,
}
"""Pillow's classes rather than `Image.open`, which tries further decoders, and refuses a bomb before it tells its size."""

READABLE: Final = frozenset(_READERS)
"""The kinds of files that can be looked at."""

_UNREADABLE: Final = (
    *(OSError, SyntaxError, ValueError, RuntimeError, EOFError),
    *(ArithmeticError, LookupError, TypeError, struct.error, zlib.error),
    Image.DecompressionBombError,
)
"""What Pillow's readers raise for bytes that are no picture, or not all of one: what damaging files at random brought up,
and what Pillow's own `open` expects of them. The last one is left for a GIF whose first frame is larger than the GIF.
"""

_PILLOW: Final = r"PIL\."
_SILENCED: Final = (UserWarning, Image.DecompressionBombWarning)
_SILENCE: Final = [("ignore", None, kind, re.compile(_PILLOW), 0) for kind in _SILENCED]
"""The filters that `_hush` sets, as the standard library keeps them."""

_TURNS: Final[Mapping[int, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright again, by its orientation (Exif 2.32, 4.6.4)."""

_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
"""What begins a JPEG's segment (ITU-T T.81, B.1.1.2), so neither a byte 0xFF of the data itself nor a restart in it."""

_LYING: Final = (5, 6, 7, 8)
"""Orientations with the width and the height exchanged."""


class Damaged(Exception):
    """The bytes are no readable, whole picture; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Look:
    """A picture's size in pixels, as a browser shows it, and a WebP of it; where that is None, the note says why."""

    width: int
    height: int
    thumbnail: bytes | None
    note: str | None


def look(data: bytes) -> Look:
    """Look at a whole file of one of the READABLE kinds; raise Damaged where it is none, or is cut short.

    What is cut short is found by decoding. Of animated pictures only the first frame is shown, and decoded: whatever is
    wrong with later ones of a GIF or an AVIF is not found. Nor is anything behind the header of what is too large to
    decode, but for a PNG, whose checksums are compared to the last one. A JPEG that has its end marker too early is grey
    from there, as in browsers.
    """
    _hush()
    try:
        return _look(data)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Damaged(f"The picture cannot be read: {reason}") from error


def _hush() -> None:
    """Silence Pillow's warnings, which are of no use here: of metadata that nobody reads, and of sizes that we judge.

    This is not undone afterwards, because filters that come and go are not safe between threads. And it is looked after each
    time, because others may have reset them. Warnings about how Pillow is called name the caller's module, and so stay.
    """
    for kind, silence in zip(_SILENCED, _SILENCE, strict=True):
        if silence not in warnings.filters:
            warnings.filterwarnings("ignore", category=kind, module=_PILLOW)


def _look(data: bytes) -> Look:
    kind = sniff(data[:SNIFFED])
    if kind is None or kind not in _READERS:
        raise Damaged("The picture is of no known kind")
    if kind is WEBP and _is_too_large(size := _webp_size(data)):
        return _without_thumbnail(*size)
    if kind is PNG:
        PngImageFile(BytesIO(data)).verify()
    with _READERS[kind](BytesIO(data)) as image:
        orientation = _orientation(image)
        width, height = image.size
        shown = (height, width) if orientation in _LYING else (width, height)
        if kind is JPEG and _has_too_many_scans(data):
            return _without_thumbnail(*shown, f"more than {MOST_SCANS} scans")
        fitted = _fit(width, height)
        box = _shrink(image, fitted, data)
        if _is_too_large(image.size):
            return _without_thumbnail(*shown)
        image.load()
        small = _in_srgb(_in_plain_mode(image).resize(fitted, Image.Resampling.LANCZOS, box, reducing_gap=2.0))
        return Look(*shown, _encode(small, orientation), None)


def _is_too_large(size: tuple[int, int]) -> bool:
    return size[0] * size[1] > MOST_PIXELS


def _without_thumbnail(width: int, height: int, why: str | None = None) -> Look:
    size = f"{width} \u00d7 {height}"
    return Look(width, height, None, f"too large to decode: {why or size}")


def _has_too_many_scans(data: bytes) -> bool:
    """Walk through a JPEG's segments, and what of its scans is no segment, without decoding any."""
    at, scans = 0, 0
    while scans <= MOST_SCANS and (marker := _MARKER.search(data, at)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        at = marker.end()
        if marker[0] not in (b"\xff\xd8", b"\xff\x01"):  # these two stand alone
            at += int.from_bytes(data[at : at + 2], "big")
    return scans > MOST_SCANS


def _webp_size(data: bytes) -> tuple[int, int]:
    """Read the size from a WebP's own header (RFC 9649, 2.5 to 2.7), as Pillow's reader makes room for it when it opens.

    Where it is too large, it is not known whether the picture is turned.
    """
    chunk, header = data[12:16], data[20:30]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(header[4:7], "little"), 1 + int.from_bytes(header[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(header[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(header[6:8], "little") & 0x3FFF, int.from_bytes(header[8:10], "little") & 0x3FFF


def _orientation(image: ImageFile) -> int:
    """How the picture is to be turned, 1 for not at all. Where its Exif is broken, a browser does not turn it either."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
        return int(exif.get(ExifTags.Base.Orientation, 1))
    except _UNREADABLE:
        return 1


def _fit(width: int, height: int) -> tuple[int, int]:
    """The size of a thumbnail, which is never larger than the picture."""
    scale = min(1.0, THUMBNAIL_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _shrink(image: ImageFile, fitted: tuple[int, int], data: bytes) -> tuple[float, float, float, float] | None:
    """Have a JPEG decoded small, at no less than twice the thumbnail's size; say what part of the result is the picture."""
    if not isinstance(image, JpegImageFile) or (_is_too_large(image.size) and not _comes_in_one_scan(image, data)):
        return None
    drafted = image.draft(None, (2 * fitted[0], 2 * fitted[1]))
    return drafted and drafted[1]


def _comes_in_one_scan(image: JpegImageFile, data: bytes) -> bool:
    """Whether a JPEG's first scan has all of it. Any other is kept in memory as a whole, however small it decodes."""
    assert image.fp is not None
    # The reader stands behind the header of the first scan: its length, and the number of its components.
    header = struct.pack(">HB", 6 + 2 * image.layers, image.layers)
    start = image.fp.tell() - 6 - 2 * image.layers
    return "progressive" not in image.info and data[start:].startswith(header)


def _in_plain_mode(image: Image.Image) -> Image.Image:
    """The picture in a mode whose pixels can be mixed: without a palette or one transparent colour, in eight bits."""
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode.startswith("I"):
        # Pillow's own conversion of sixteen bits to eight would clip them.
        return image.point(lambda value: value * (1 / 256)).convert("L")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _in_srgb(image: Image.Image) -> Image.Image:
    """The picture by its colour profile, or as if it had none where the profile is broken or of another mode."""
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    profile = image.info.get("icc_profile")
    if profile:
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode=mode
            )
        except (ImageCms.PyCMSError, *_UNREADABLE):
            converted = None
        if converted is not None:
            return converted
    return image.convert(mode)


def _encode(image: Image.Image, orientation: int) -> bytes:
    """Write the picture upright as a WebP of nothing but its pixels."""
    upright = image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
    upright.info.clear()
    file = BytesIO()
    upright.save(file, "WEBP", quality=_QUALITY, method=_EFFORT)
    return file.getvalue()
