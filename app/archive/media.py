"""What kind of file some bytes are, by their beginning: a closed list, as nothing else must be served to browsers.

What a server or a name says of a file is not asked. Nothing that a browser runs is on the list: no SVG, no PDF. The rules
are those of the WHATWG MIME Sniffing Standard (sections 6.1 and 6.2), made stricter or more exact by the specifications
of the formats where they are named below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

SNIFFED: Final = 1445
"""How many leading bytes are wanted, as in the standard: an MP3's longest frame (1,441 bytes) and the next one's header.

Fewer do for every other kind. A file that is shorter is sniffed as it is.
"""


@dataclass(frozen=True, slots=True)
class MediaType:
    """A kind of file: what it is called in HTTP, and how its names end."""

    content_type: str
    extension: str

    @property
    def family(self) -> str:
        """`image`, `video` or `audio`."""
        return self.content_type.partition("/")[0]


PNG: Final = MediaType("image/png", "png")
JPEG: Final = MediaType("image/jpeg", "jpg")
GIF: Final = MediaType("image/gif", "gif")
WEBP: Final = MediaType("image/webp", "webp")
AVIF: Final = MediaType("image/avif", "avif")
HEIC: Final = MediaType("image/heic", "heic")
MP4: Final = MediaType("video/mp4", "mp4")
QUICKTIME: Final = MediaType("video/quicktime", "mov")
THREE_GPP: Final = MediaType("video/3gpp", "3gp")
WEBM: Final = MediaType("video/webm", "webm")
MATROSKA: Final = MediaType("video/matroska", "mkv")
OGG_VIDEO: Final = MediaType("video/ogg", "ogv")
AVI: Final = MediaType("video/x-msvideo", "avi")
M4A: Final = MediaType("audio/mp4", "m4a")
MP3: Final = MediaType("audio/mpeg", "mp3")
AAC: Final = MediaType("audio/aac", "aac")
WAV: Final = MediaType("audio/wav", "wav")
FLAC: Final = MediaType("audio/flac", "flac")
OGG_AUDIO: Final = MediaType("audio/ogg", "ogg")
AIFF: Final = MediaType("audio/aiff", "aiff")

MEDIA_TYPES: Final = (
    *(PNG, JPEG, GIF, WEBP, AVIF, HEIC),
    *(MP4, QUICKTIME, THREE_GPP, WEBM, MATROSKA, OGG_VIDEO, AVI),
    *(M4A, MP3, AAC, WAV, FLAC, OGG_AUDIO, AIFF),
)
"""The closed list. One kind has one content type and one extension, and no two kinds share either."""

_BEGINNINGS: Final[tuple[tuple[bytes, MediaType], ...]] = (
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"fLaC", FLAC),
)

_CHUNKED: Final[Mapping[tuple[bytes, bytes], MediaType]] = {
    (b"RIFF", b"WEBP"): WEBP,
    (b"RIFF", b"WAVE"): WAV,
    (b"RIFF", b"AVI "): AVI,
    (b"FORM", b"AIFF"): AIFF,
    (b"FORM", b"AIFC"): AIFF,
}
"""IFF and RIFF: what the whole is, the length of the rest, and what is in it."""

_MAJOR_BRANDS: Final[Mapping[bytes, MediaType]] = {
    **dict.fromkeys((b"avif", b"avis"), AVIF),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), HEIC),
    **dict.fromkeys((b"M4A ", b"M4B "), M4A),
    **dict.fromkeys((b"3gp4", b"3gp5", b"3gp6", b"3gp7", b"3gp8", b"3gp9", b"3ge6", b"3ge7", b"3gg6"), THREE_GPP),
    b"qt  ": QUICKTIME,
}
"""Brands that decide by themselves (mp4ra.org), where a file gives them as its own."""

_STILL_BRANDS: Final = frozenset({b"mif1", b"msf1", b"miaf"})
"""Brands that say no more than that there is a picture: which one stands among the compatible brands."""

_MOVIE_BRANDS: Final = frozenset(
    {
        *(b"isom", b"iso2", b"iso3", b"iso4", b"iso5", b"iso6", b"iso7", b"iso8", b"iso9"),
        *(b"mp41", b"mp42", b"mp71", b"avc1", b"hvc1", b"av01", b"dash", b"cmfc", b"M4V ", b"M4VH", b"M4VP", b"MSNV"),
    }
)
"""Brands of MP4, as a file's own or a compatible one. Whether there is only sound in it cannot be seen from here."""

_EBML: Final = b"\x1a\x45\xdf\xa3"
_DOC_TYPE: Final = b"\x42\x82"
_DOC_TYPES: Final[Mapping[bytes, MediaType]] = {b"webm": WEBM, b"matroska": MATROSKA}

_OGG_CODECS: Final[tuple[tuple[bytes, MediaType], ...]] = (
    (b"OpusHead", OGG_AUDIO),
    (b"\x01vorbis", OGG_AUDIO),
    (b"\x7fFLAC", OGG_AUDIO),
    (b"\x80theora", OGG_VIDEO),
)

_MP3_KILOBITS: Final = (
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
)
"""Of layer III by the header's bitrate index, for MPEG-2 and 2.5, and for MPEG-1; 0 is no rate that a frame's length has."""

_MP3_HERTZ: Final = (44_100, 48_000, 32_000)
"""Of MPEG-1 by the header's index; MPEG-2 has the half, MPEG-2.5 a quarter."""

_MP3_CONSTANT: Final = b"\xff\xfe\x0c"
_ADTS_CONSTANT: Final = b"\xff\xff\xfc"
"""The bits of a frame's header that are the same in all frames of a file: version, layer, sampling rate and the like."""


def sniff(head: bytes) -> MediaType | None:
    """Tell the kind of a file from its first SNIFFED bytes, or all it has; None for all that is not on the list."""
    head = head[:SNIFFED]
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    chunked = _CHUNKED.get((head[:4], head[8:12]))
    return chunked or _sniff_boxes(head) or _sniff_ebml(head) or _sniff_ogg(head) or _sniff_frames(head)


def _sniff_boxes(head: bytes) -> MediaType | None:
    """Files of ISO/IEC 14496-12, by the brands of the file type box that they begin with."""
    length = int.from_bytes(head[:4], "big")
    if head[4:8] != b"ftyp" or length < 16 or length % 4:
        return None
    box = head[:length]
    own, *compatible = [box[8:12], *(box[at : at + 4] for at in range(16, len(box), 4))]
    if own in _MAJOR_BRANDS:
        return _MAJOR_BRANDS[own]
    if own in _STILL_BRANDS:
        stills = (_MAJOR_BRANDS.get(brand) for brand in compatible)
        return next((still for still in stills if still in (AVIF, HEIC)), None)
    return MP4 if _MOVIE_BRANDS & {own, *compatible} else None


def _sniff_ebml(head: bytes) -> MediaType | None:
    """WebM and Matroska (RFC 8794 and 9559): an EBML header whose DocType names one of them."""
    at = head.find(_DOC_TYPE, len(_EBML), 64) + len(_DOC_TYPE)
    if not head.startswith(_EBML) or not len(_EBML) < at < len(head) or not head[at]:
        return None
    # A length begins with as many zero bits as it has further bytes, and a one bit that does not count.
    width = 9 - head[at].bit_length()
    length = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
    # The text may be padded with zeros (RFC 8794, 11.1.1).
    return _DOC_TYPES.get(head[at + width :][:length].rstrip(b"\0"))


def _sniff_ogg(head: bytes) -> MediaType | None:
    """Ogg (RFC 3533), by the packet that begins its first page, behind the table of its segments."""
    if not head.startswith(b"OggS\0") or len(head) < 27:
        return None
    packet = head[27 + head[26] :]
    return next((kind for beginning, kind in _OGG_CODECS if packet.startswith(beginning)), None)


def _sniff_frames(head: bytes) -> MediaType | None:
    """MP3 and AAC, which have no beginning of their own but that of a frame, or of a tag before the first one.

    Eleven or twelve set bits are soon met with by chance, so the whole header is read, and the next one has to agree.
    """
    if _is_id3(head) or _goes_on(head, _mp3_length(head), _mp3_length, _MP3_CONSTANT):
        return MP3
    length = _adts_length(head)
    # A frame of AAC may be longer than what is here, and then its own header has to do.
    if length and (length + 7 > len(head) or _goes_on(head, length, _adts_length, _ADTS_CONSTANT)):
        return AAC
    return None


def _is_id3(head: bytes) -> bool:
    """Whether a file begins with a tag of ID3v2 (id3.org, 3.1 of each version): bytes that no text has follow its name."""
    return head[:3] == b"ID3" and len(head) >= 10 and head[3] in (2, 3, 4) and max(head[6:10]) < 0x80


def _goes_on(head: bytes, length: int, read_length: Callable[[bytes], int], constant: bytes) -> bool:
    """Whether a frame of this many bytes, 0 for none, is followed by one that is alike in the bits that are constant."""
    following = head[length : length + 7]
    alike = all((one ^ other) & bits == 0 for one, other, bits in zip(head, following, constant, strict=False))
    return length > 0 and read_length(following) > 0 and alike


def _mp3_length(header: bytes) -> int:
    """The bytes of a frame of layer III by its header (ISO/IEC 11172-3, 2.4.1.3, and 13818-3); 0: it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2 or header[3] & 3 == 2:
        return 0
    version, rate, hertz = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    kilobits = _MP3_KILOBITS[version == 3][rate]
    if version == 1 or hertz == 3 or kilobits == 0:
        return 0
    # MPEG-2.5, which has version 0, halves the sampling rate a second time.
    samples, divisor = {3: (144, 1), 2: (72, 2), 0: (72, 4)}[version]
    return samples * kilobits * 1000 * divisor // _MP3_HERTZ[hertz] + (header[2] >> 1 & 1)


def _adts_length(header: bytes) -> int:
    """The bytes of a frame of AAC by its ADTS header (ISO/IEC 13818-7, 6.2), itself included; 0: it is none."""
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 > 12:
        return 0
    length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return length if length > 7 else 0
