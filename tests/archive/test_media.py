"""What files are told apart by: real ones where something here can write them, and beginnings by the specifications."""

from __future__ import annotations

import wave
from io import BytesIO
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from app.archive.media import (
    AAC,
    AIFF,
    AVI,
    AVIF,
    FLAC,
    GIF,
    HEIC,
    JPEG,
    M4A,
    MATROSKA,
    MEDIA_TYPES,
    MP3,
    MP4,
    OGG_AUDIO,
    OGG_VIDEO,
    PNG,
    QUICKTIME,
    SNIFFED,
    THREE_GPP,
    WAV,
    WEBM,
    WEBP,
    MediaType,
    sniff,
)

MP3_HEADER: Final = bytes.fromhex("fffb9064")
"""MPEG-1, layer III, 128 kbit/s, 44,100 Hz, without padding: frames of 144 x 128,000 / 44,100 = 417 bytes."""

ADTS_HEADER: Final = bytes.fromhex("fff15080")
"""MPEG-4, no checksum, low complexity, 44,100 Hz, two channels: the first four of seven bytes."""


def picture(name: str) -> bytes:
    file = BytesIO()
    Image.effect_noise((40, 30), 50).convert("RGB").save(file, name)
    return file.getvalue()


def sound() -> bytes:
    file = BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 8000, 0, "NONE", ""))
        writer.writeframes(bytes(1000))
    return file.getvalue()


def file_type(own: bytes, *compatible: bytes) -> bytes:
    brands = b"".join(compatible)
    return (16 + len(brands)).to_bytes(4, "big") + b"ftyp" + own + bytes(4) + brands + b"\0\0\0\x08free"


def ebml(
    doc_type: bytes, *, before: bytes = b"\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08"
) -> bytes:
    header = before + b"\x42\x82" + doc_type + b"\x42\x87\x81\x04\x42\x85\x81\x02"
    return b"\x1a\x45\xdf\xa3" + b"\x01" + len(header).to_bytes(7, "big") + header + b"\x18\x53\x80\x67"


def ogg(packet: bytes) -> bytes:
    return b"OggS\0\x02" + bytes(8) + b"\x01\x02\x03\x04" + bytes(8) + b"\x01" + bytes([len(packet)]) + packet


def mp3(*headers: bytes, length: int = 417) -> bytes:
    return b"".join(header.ljust(length, b"\x55") for header in headers)


def adts(length: int, *, header: bytes = ADTS_HEADER) -> bytes:
    rest = bytes([header[3] | length >> 11, length >> 3 & 0xFF, (length & 7) << 5 | 0x1F, 0xFC])
    return (header[:3] + rest).ljust(length, b"\x55")


FILES: Final = {
    **{f"{name} by Pillow": (picture(name), kind) for name, kind in (("PNG", PNG), ("JPEG", JPEG), ("GIF", GIF))},
    **{f"{name} by Pillow": (picture(name), kind) for name, kind in (("WEBP", WEBP), ("AVIF", AVIF))},
    "WAV by the standard library": (sound(), WAV),
    "an older GIF": (b"GIF87a\x01\0\x01\0", GIF),
    "an AVIF that names itself a still": (file_type(b"mif1", b"mif1", b"miaf", b"avif"), AVIF),
    "an AVIF of several pictures": (file_type(b"avis", b"msf1", b"avis", b"isom"), AVIF),
    "a telephone's photograph": (file_type(b"heic", b"mif1", b"heic"), HEIC),
    "a HEIC that names itself a still": (file_type(b"mif1", b"mif1", b"heic"), HEIC),
    "MP4 by ffmpeg": (file_type(b"isom", b"isom", b"iso2", b"avc1", b"mp41"), MP4),
    "MP4 by its version": (file_type(b"mp42", b"isom"), MP4),
    "MP4 in fragments": (file_type(b"iso5", b"iso6", b"dash"), MP4),
    "MP4 by an unknown camera": (file_type(b"XAVC", b"mp42"), MP4),
    "video for iTunes": (file_type(b"M4V ", b"mp42"), MP4),
    "QuickTime": (file_type(b"qt  ", b"qt  "), QUICKTIME),
    "3GP": (file_type(b"3gp5", b"isom"), THREE_GPP),
    "audio for iTunes": (file_type(b"M4A ", b"mp42", b"isom"), M4A),
    "WebM": (ebml(b"\x84webm"), WEBM),
    "WebM with a long length": (ebml(b"\x08\0\0\0\x04webm"), WEBM),
    "WebM with a padded name": (ebml(b"\x88webm\0\0\0\0"), WEBM),
    "WebM that names its type first": (ebml(b"\x84webm", before=b""), WEBM),
    "Matroska": (ebml(b"\x88matroska"), MATROSKA),
    "AVI": (b"RIFF\x10\0\0\0AVI LIST", AVI),
    "Opus": (ogg(b"OpusHead\x01\x02"), OGG_AUDIO),
    "Vorbis": (ogg(b"\x01vorbis\0\0\0\0"), OGG_AUDIO),
    "FLAC in Ogg": (ogg(b"\x7fFLAC\x01\0"), OGG_AUDIO),
    "Theora": (ogg(b"\x80theora\x03\x02"), OGG_VIDEO),
    "FLAC": (b"fLaC\0\0\0\x22", FLAC),
    "AIFF": (b"FORM\0\0\x10\0AIFFCOMM", AIFF),
    "compressed AIFF": (b"FORM\0\0\x10\0AIFCFVER", AIFF),
    "MP3 with a tag": (b"ID3\x04\0\0\0\0\x02\x01TSSE", MP3),
    "MP3 with an old tag": (b"ID3\x02\0\0\0\0\x02\x01TT2", MP3),
    "MP3 without a tag": (mp3(MP3_HEADER, MP3_HEADER), MP3),
    "MP3 with padding": (mp3(b"\xff\xfb\x92\x64", MP3_HEADER, length=418), MP3),
    "MP3 with a checksum": (mp3(b"\xff\xfa\x90\x64", b"\xff\xfa\x90\x64"), MP3),
    "MP3 of a changing rate": (mp3(MP3_HEADER, b"\xff\xfb\xe0\x64"), MP3),
    "MP3 of the longest frames": (mp3(b"\xff\xfb\xea\x64", b"\xff\xfb\xe8\x64", length=1441), MP3),
    "MP3 of MPEG-2": (mp3(b"\xff\xf3\x80\xc4", b"\xff\xf3\x80\xc4", length=208), MP3),
    "MP3 of MPEG-2.5": (mp3(b"\xff\xe3\x40\xc4", b"\xff\xe3\x40\xc4", length=208), MP3),
    "AAC": (adts(371) + adts(372), AAC),
    "AAC of MPEG-2": (2 * adts(371, header=b"\xff\xf9\x50\x80"), AAC),
    "AAC of frames longer than what is read": (adts(2000) + adts(2000), AAC),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_known_by_its_beginning(name: str) -> None:
    data, kind = FILES[name]
    assert sniff(data) == sniff(data[:SNIFFED]) == kind


NOTHING: Final = {
    "nothing": b"",
    "HTML": b"<!DOCTYPE html><html><script>alert(1)</script>",
    "HTML behind spaces": b"\r\n  <html>",
    "text": b"Forbidden",
    "UTF-16": "\ufeffForbidden".encode("utf-16-le"),
    "UTF-16 the other way": "\ufeffForbidden".encode("utf-16-be"),
    "Latin-1": "ÿñÿûÿóÿãÿÿÿ".encode("latin-1") * 200,
    "JSON": b'{"error": "expired"}',
    "XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "PDF": b"%PDF-1.7\n",
    "PostScript": b"%!PS-Adobe-3.0",
    "ZIP": b"PK\x03\x04\x14\0\0\0",
    "gzip": b"\x1f\x8b\x08\0",
    "ELF": b"\x7fELF\x02\x01\x01\0",
    "a program for Windows": b"MZ\x90\0",
    "a script": b"#!/bin/sh\n",
    "WebAssembly": b"\0asm\x01\0\0\0",
    "a font": b"wOF2\0\x01\0\0",
    "an icon": b"\0\0\x01\0\x01\0\x10\x10",
    "BMP": picture("BMP"),
    "TIFF": picture("TIFF"),
    "JPEG 2000": picture("JPEG2000"),
    "a playlist": b"#EXTM3U\n",
    "a RIFF of something else": b"RIFF\x10\0\0\0ACONLIST",
    "boxes of something else": file_type(b"jp2 ", b"jp2 "),
    "a still of something else": file_type(b"mif1", b"mif1", b"vvic"),
    "a box that is too short": b"\0\0\0\x0cftypmp42",
    "a box of an odd length": b"\0\0\0\x12ftypmp42\0\0\0\0mp42",
    "text in the place of a box": b"<!--ftypmp42-->",
    "EBML of something else": ebml(b"\x85ebook"),
    "EBML of something longer": ebml(b"\x85webmx"),
    "EBML without a length": ebml(b"\0webm"),
    "EBML without an end": b"\x1a\x45\xdf\xa3\x42\x82",
    "EBML without a type": b"\x1a\x45\xdf\xa3" + bytes(100),
    "a type without EBML": b"\0\0\0\0\x42\x82\x84webm",
    "Ogg of something else": ogg(b"fishead\0"),
    "Ogg without a page": b"OggS\0\x02",
    "text that begins like a tag": b"ID3 tags are explained here",
    "a tag with a wrong size": b"ID3\x04\0\0\x80\0\x02\x01",
    "a frame of MP3 alone": mp3(MP3_HEADER),
    "MP3 whose frames disagree": mp3(MP3_HEADER, b"\xff\xfb\x94\x64"),
    "a tail that is none of MP3": mp3(MP3_HEADER, b"<htm"),
    "a reserved version": mp3(b"\xff\xeb\x90\x64", b"\xff\xeb\x90\x64"),
    "layer II": mp3(b"\xff\xfd\x90\x64", b"\xff\xfd\x90\x64"),
    "a free rate": mp3(b"\xff\xfb\x00\x64", b"\xff\xfb\x00\x64"),
    "a forbidden rate": mp3(b"\xff\xfb\xf0\x64", b"\xff\xfb\xf0\x64"),
    "a reserved sampling rate": mp3(b"\xff\xfb\x9c\x64", b"\xff\xfb\x9c\x64"),
    "a reserved emphasis": mp3(b"\xff\xfb\x90\x66", b"\xff\xfb\x90\x66"),
    "AAC whose frames disagree": adts(371) + adts(371, header=b"\xff\xf1\x54\x80"),
    "AAC of a reserved sampling rate": 2 * adts(371, header=b"\xff\xf1\x74\x80"),
    "AAC of empty frames": 200 * adts(7),
}


@pytest.mark.parametrize("name", NOTHING)
def test_whatever_is_not_on_the_list_is_nothing(name: str) -> None:
    assert sniff(NOTHING[name]) is None


@given(st.binary(max_size=2 * SNIFFED))
def test_any_bytes_are_of_a_kind_on_the_list_or_of_none(data: bytes) -> None:
    assert sniff(data) in (None, *MEDIA_TYPES)


@given(st.sampled_from([data for data, _ in FILES.values()]), st.integers(0, SNIFFED))
def test_a_beginning_that_is_cut_short_is_what_it_was_or_nothing(data: bytes, length: int) -> None:
    kind = sniff(data)
    assert sniff(data[:length]) in (None, kind)


@given(st.sampled_from([data for data, _ in FILES.values()]), st.integers(0, 99), st.integers(0, 255))
def test_a_beginning_with_a_wrong_byte_is_of_a_kind_on_the_list_or_of_none(data: bytes, place: int, value: int) -> None:
    changed = bytearray(data)
    changed[place % len(data)] = value
    assert sniff(bytes(changed)) in (None, *MEDIA_TYPES)


@given(st.sampled_from(["<", "{", "[", '"', "<?xml ", "<svg ", "%PDF-", "#!"]), st.text())
@example("GIF89", "b")
@example("\x89PNG", "\r\n\x1a\n")
def test_no_text_is_a_media_file(beginning: str, text: str) -> None:
    assert sniff((beginning + text).encode()) is None


def test_a_kind_has_a_content_type_and_an_extension_of_its_own() -> None:
    assert len({kind.content_type for kind in MEDIA_TYPES}) == len(MEDIA_TYPES)
    assert len({kind.extension for kind in MEDIA_TYPES}) == len(MEDIA_TYPES)
    assert {kind.family for kind in MEDIA_TYPES} == {"image", "video", "audio"}
    assert MediaType("image/png", "png") == PNG
