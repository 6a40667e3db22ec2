"""Pictures as Pillow writes them, turned, cut, damaged and blown up: each gives a look or is said to be damaged."""

from __future__ import annotations

import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageCms, ImageOps, ImageStat
from PIL.PngImagePlugin import PngInfo

from app.archive.media import SNIFFED, sniff
from app.archive.pictures import MOST_PIXELS, READABLE, THUMBNAIL_SIDE, Damaged, Look, look

ORIENTATION: Final = 0x0112
WIDE: Final = (90, 60)

MEMORY: Final = """
import resource, sys
from pathlib import Path
from PIL.PngImagePlugin import PngImageFile
from app.archive.pictures import look

resource.setrlimit(resource.RLIMIT_AS, (350_000_000, 350_000_000))
path = Path(sys.argv[1])
print(look(path.read_bytes()))
try:
    PngImageFile(path).load()
except MemoryError:
    print("would not fit")
"""


def noise(size: tuple[int, int] = WIDE) -> Image.Image:
    return Image.merge("RGB", [Image.effect_noise(size, 80) for _ in range(3)])


def see_through(size: tuple[int, int] = WIDE) -> Image.Image:
    picture = noise(size)
    picture.putalpha(Image.linear_gradient("L").resize(size))
    return picture


def flat(mode: str, colour: Any, size: tuple[int, int] = (40, 20)) -> Image.Image:
    return Image.new(mode, size, colour)


def written(picture: Image.Image, name: str, **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, name, **options)
    return file.getvalue()


def animated(name: str) -> bytes:
    first = noise()
    return written(first, name, save_all=True, append_images=[ImageOps.invert(first), noise()])


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010F] = "a maker of cameras"
    return exif


def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """A profile by which what is red is green, and the other way round."""
    return profile().replace(b"rXYZ", b"....", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"....", b"gXYZ", 1)


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def with_true_checksums(png: bytes) -> bytes:
    """A PNG whose chunks' checksums are right again, so that what is wrong in them reaches the decoder."""
    out, at = png[:8], 8
    while at + 12 <= len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        out += chunk(png[at + 4 : at + 8], png[at + 8 : end])
        at = end + 4
    return out


def bomb(width: int, height: int) -> bytes:
    """A small PNG of one colour and as many pixels as are asked for, whole to its last byte."""
    compressor = zlib.compressobj()
    line = bytes(1 + (width + 7) // 8)
    pixels = b"".join([*(compressor.compress(line) for _ in range(height)), compressor.flush()])
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def resized_jpeg(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size (its SOF0 or SOF2)."""
    at = max(data.find(b"\xff\xc0\x00\x11"), data.find(b"\xff\xc2\x00\x11"))
    return data[: at + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 9 :]


def thumbnail(data: bytes) -> Image.Image:
    seen = look(data)
    assert seen.thumbnail is not None
    assert seen.note is None
    picture = Image.open(BytesIO(seen.thumbnail), formats=["WEBP"])
    picture.load()
    return picture


def mean(picture: Image.Image) -> list[int]:
    return [round(value) for value in ImageStat.Stat(picture).mean]


@cache
def pictures() -> dict[str, bytes]:
    """A file of every kind that Pillow reads in a way of its own."""
    text = PngInfo()
    text.add_text("prompt", "a fox " * 50, zip=True)
    text.add_itxt("workflow", "{}", zip=True)
    exif = turned(6)
    return {
        "png": written(noise(), "PNG"),
        "png-alpha": written(see_through(), "PNG", exif=exif, icc_profile=profile(), pnginfo=text),
        "png-grey-alpha": written(see_through().convert("LA"), "PNG"),
        "png-16": written(Image.new("I;16", WIDE, 30_000), "PNG"),
        "png-palette": written(noise().quantize(20), "PNG", transparency=3),
        "png-bits": written(noise().convert("1"), "PNG"),
        "png-colour-key": written(noise(), "PNG", transparency=(1, 2, 3)),
        "png-animated": animated("PNG"),
        "jpeg": written(noise(), "JPEG", exif=exif, icc_profile=profile(), comment="made by hand"),
        "jpeg-progressive": written(noise(), "JPEG", progressive=True),
        "jpeg-grey": written(noise().convert("L"), "JPEG"),
        "jpeg-cmyk": written(noise().convert("CMYK"), "JPEG"),
        "jpeg-several": animated("MPO"),
        "gif": written(noise(), "GIF"),
        "gif-animated": animated("GIF"),
        "webp": written(noise(), "WEBP", exif=exif, icc_profile=profile()),
        "webp-lossless": written(see_through(), "WEBP", lossless=True),
        "webp-animated": animated("WEBP"),
        "avif": written(noise(), "AVIF", exif=exif, icc_profile=profile()),
        "avif-alpha": written(see_through(), "AVIF"),
        "avif-animated": animated("AVIF"),
    }


NAMES: Final = tuple(pictures())


def assert_looked_at_or_damaged(data: bytes) -> None:
    try:
        seen = look(data)
    except Damaged:
        return
    assert min(seen.width, seen.height) > 0
    assert (seen.thumbnail is None) == (seen.note is not None)


# What is seen


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_picture_has_a_size_and_a_thumbnail(name: str) -> None:
    data = pictures()[name]
    seen = look(data)
    assert sniff(data[:SNIFFED]) in READABLE
    assert (seen.width, seen.height) == (WIDE if name not in ("png-alpha", "jpeg", "webp", "avif") else WIDE[::-1])
    assert thumbnail(data).size == (seen.width, seen.height)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "WEBP", "AVIF"])
@pytest.mark.parametrize(
    ("size", "small"),
    [
        ((1000, 500), (320, 160)),
        ((500, 1000), (160, 320)),
        ((2000, 1999), (320, 320)),
        ((321, 1), (320, 1)),
        ((1, 3000), (1, 320)),
        ((320, 320), (320, 320)),
        ((5, 7), (5, 7)),
        ((1, 1), (1, 1)),
    ],
)
def test_a_thumbnail_keeps_the_proportions_and_is_never_larger(
    name: str, size: tuple[int, int], small: tuple[int, int]
) -> None:
    data = written(flat("RGB", (200, 100, 50), size), name)
    assert thumbnail(data).size == small
    assert max(small) <= THUMBNAIL_SIDE
    assert (look(data).width, look(data).height) == size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_a_picture_is_turned_as_its_exif_says(name: str, orientation: int) -> None:
    picture = flat("RGB", "white", (400, 200))
    picture.paste("red", (0, 0, 200, 100))
    picture.paste("blue", (200, 0, 400, 100))
    data = written(picture, name, exif=turned(orientation))
    expected = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    seen = look(data)
    assert (seen.width, seen.height) == expected.size
    difference = ImageChops.difference(thumbnail(data).convert("RGB"), expected.resize(thumbnail(data).size))
    assert max(mean(difference)) < 8


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + b"\x12\x01\x02\0\xff\xff\xff\x7f\xff\xff\xff\x7f",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + b"\x12\x01\x02\0\x02\0\0\0x\0\0\0\0\0\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0nothing",
        b"Exif\0\0",
    ],
)
@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_a_picture_with_broken_exif_is_not_turned_and_nobody_is_warned(name: str, exif: bytes) -> None:
    seen = look(written(noise(), name, exif=exif))
    assert (seen.width, seen.height) in (WIDE, WIDE[::-1])
    assert seen.thumbnail is not None


def test_an_orientation_that_does_not_exist_turns_nothing() -> None:
    seen = look(written(noise(), "JPEG", exif=turned(9)))
    assert (seen.width, seen.height) == WIDE


@pytest.mark.parametrize(
    ("data", "mode", "colour"),
    [
        (written(flat("RGB", (200, 100, 50)), "PNG"), "RGB", [200, 100, 50]),
        (written(flat("RGBA", (200, 100, 50, 128)), "PNG"), "RGBA", [200, 100, 50, 128]),
        (written(flat("L", 77), "PNG"), "RGB", [77, 77, 77]),
        (written(flat("LA", (77, 128)), "PNG"), "RGBA", [77, 77, 77, 128]),
        (written(flat("1", 1), "PNG"), "RGB", [255, 255, 255]),
        (written(flat("I;16", 77 * 256), "PNG"), "RGB", [77, 77, 77]),
        (written(flat("RGB", (200, 100, 50)).quantize(4), "PNG"), "RGB", [200, 100, 50]),
        (written(flat("RGB", (200, 100, 50)), "PNG", transparency=(200, 100, 50)), "RGBA", [0, 0, 0, 0]),
        (written(flat("RGB", (200, 100, 50)), "JPEG"), "RGB", [200, 100, 50]),
        (written(flat("L", 77), "JPEG"), "RGB", [77, 77, 77]),
        (written(flat("CMYK", (55, 155, 205, 0)), "JPEG"), "RGB", [200, 100, 50]),
        (written(flat("P", 0), "GIF", transparency=0), "RGBA", [0, 0, 0, 0]),
        (written(flat("RGBA", (200, 100, 50, 128)), "WEBP", lossless=True), "RGBA", [200, 100, 50, 128]),
        (written(flat("RGBA", (200, 100, 50, 128)), "AVIF"), "RGBA", [200, 100, 50, 128]),
    ],
)
def test_colours_of_every_mode_are_kept(data: bytes, mode: str, colour: list[int]) -> None:
    small = thumbnail(data)
    assert small.mode == mode
    # What is wholly transparent has no colour.
    seen = mean(small) if colour[-1:] != [0] else [0, 0, 0, mean(small)[3]]
    assert all(abs(one - other) <= 6 for one, other in zip(seen, colour, strict=True)), seen


def test_a_transparent_edge_takes_no_colour_from_what_is_not_seen() -> None:
    picture = flat("RGBA", (255, 0, 0, 0), (800, 800))
    picture.paste((0, 255, 0, 255), (0, 0, 397, 800))
    red, green, _, alpha = thumbnail(written(picture, "PNG")).split()
    seen = Image.merge("RGB", [red, green, alpha]).crop((156, 0, 162, 320))
    pixels = [seen.getpixel((x, 160)) for x in range(6)]
    assert all(isinstance(pixel, tuple) and (pixel[2] < 32 or pixel[0] < 64) for pixel in pixels), pixels


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_a_colour_profile_is_applied(name: str) -> None:
    red, green, _ = mean(thumbnail(written(flat("RGB", (255, 0, 0)), name, icc_profile=swapped_profile())))
    assert (red < 60, green > 200) == (True, True)


@pytest.mark.parametrize(
    ("picture", "icc"),
    [
        (flat("RGB", (77, 77, 77)), b"no profile"),
        (flat("RGB", (77, 77, 77)), swapped_profile()[:400]),
        (flat("L", 77), swapped_profile()),
        (flat("CMYK", (178, 178, 178, 0)), swapped_profile()),
    ],
)
def test_a_colour_profile_that_does_not_fit_is_dropped(picture: Image.Image, icc: bytes) -> None:
    seen = mean(thumbnail(written(picture, "JPEG", icc_profile=icc)))
    assert all(abs(value - 77) <= 6 for value in seen), seen


@pytest.mark.parametrize("name", ["png-alpha", "jpeg", "webp", "avif"])
def test_a_thumbnail_carries_nothing_but_pixels(name: str) -> None:
    seen = look(pictures()[name]).thumbnail
    assert seen is not None
    assert not any(word in seen for word in (b"EXIF", b"ICCP", b"XMP ", b"maker"))


@pytest.mark.parametrize("name", ["PNG", "GIF", "WEBP", "AVIF"])
def test_of_an_animated_picture_the_first_frame_is_shown(name: str) -> None:
    frames = [flat("RGB", colour) for colour in ("#c81010", "#10c810")]
    red, green, *_ = mean(thumbnail(written(frames[0], name, save_all=True, append_images=frames[1:])))
    assert (red > 180, green < 60) == (True, True)


def test_looks_in_several_threads_do_not_disturb_each_other() -> None:
    files = list(pictures().values())
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(look, 5 * files)) == 5 * [look(data) for data in files]


# What is too large


def test_a_bomb_is_told_by_its_header_and_never_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(20_000, 20_000))
    assert path.stat().st_size < 100_000
    done = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        str(Look(20_000, 20_000, None, "too large to decode: 20000 × 20000")),  # noqa: RUF001 (it multiplies)
        "would not fit",
    ]


def test_what_is_as_large_as_may_be_is_decoded() -> None:
    assert look(bomb(5000, MOST_PIXELS // 5000)).note is None
    assert look(bomb(5000, MOST_PIXELS // 5000 + 1)).note == "too large to decode: 5000 \u00d7 5001"


def test_a_huge_jpeg_is_decoded_small() -> None:
    data = written(flat("L", 77, (8000, 6000)), "JPEG", exif=turned(6))
    assert look(data).width * look(data).height > MOST_PIXELS
    assert thumbnail(data).size == (240, 320)


def test_a_long_jpeg_is_decoded_small_as_well() -> None:
    assert thumbnail(written(flat("L", 77, (60_000, 500)), "JPEG")).size == (320, 3)


def test_a_jpeg_that_decodes_in_full_first_is_too_large_as_it_is() -> None:
    progressive = resized_jpeg(written(noise(), "JPEG", progressive=True, exif=turned(6)), 30_000, 20_000)
    assert look(progressive) == Look(20_000, 30_000, None, "too large to decode: 20000 \u00d7 30000")
    one_scan = resized_jpeg(written(noise(), "JPEG"), 30_000, 20_000)
    # Its end marker comes early, so that what is missing is grey.
    assert look(one_scan).note is None
    at = one_scan.find(b"\xff\xda\x00\x0c\x03")
    several_scans = one_scan[:at] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + one_scan[at + 14 :]
    assert look(several_scans) == Look(30_000, 20_000, None, "too large to decode: 30000 \u00d7 20000")


def test_a_jpeg_of_very_many_scans_is_not_decoded() -> None:
    """42 bytes are a scan of 25 million pixels and 1.6 ms; 64 MiB of them are some 40 minutes, which nothing can end."""
    data = written(flat("RGB", (10, 20, 30), (5000, 5000)), "JPEG", progressive=True, quality=75)
    start = data.index(bytes.fromhex("ffda00080101000105"))  # a scan of the luminance's first coefficients
    end = data.index(b"\xff\xc4", start)
    assert look(data).note is None
    began = time.monotonic()
    seen = look(data[:end] + data[start:end] * 3000 + data[end:])
    assert seen == Look(5000, 5000, None, "too large to decode: more than 100 scans")
    assert time.monotonic() - began < 60


def test_what_looks_like_scans_within_a_segment_is_none() -> None:
    data = written(noise(), "JPEG", comment=b"\xff\xda\x00\x02" * 200, restart_marker_blocks=1)
    assert look(data).note is None


def test_a_jpeg_too_large_for_any_decoder_is_too_large() -> None:
    assert (
        look(resized_jpeg(written(noise(), "JPEG"), 65_000, 65_000)).note == "too large to decode: 65000 \u00d7 65000"
    )


def test_other_bombs_are_told_by_their_headers_too() -> None:
    gif = b"GIF89a" + 2 * (60_000).to_bytes(2, "little") + pictures()["gif"][10:]
    assert look(gif) == Look(60_000, 60_000, None, "too large to decode: 60000 \u00d7 60000")
    plain, lossless, extended = (written(picture, "WEBP", **options) for picture, options in WEBPS)
    assert (plain[12:16], lossless[12:16], extended[12:16]) == (b"VP8 ", b"VP8L", b"VP8X")
    large = (16_000).to_bytes(2, "little") * 2
    assert look(plain[:26] + large + plain[30:]) == Look(
        16_000, 16_000, None, "too large to decode: 16000 \u00d7 16000"
    )
    packed = (15_999 | 11_999 << 14).to_bytes(4, "little")
    assert look(lossless[:21] + packed + lossless[25:]).note == "too large to decode: 16000 \u00d7 12000"
    packed = (15_999).to_bytes(3, "little") + (11_999).to_bytes(3, "little")
    assert look(extended[:24] + packed + extended[30:]).note == "too large to decode: 16000 \u00d7 12000"
    avif = written(noise(), "AVIF")
    at = avif.find(b"ispe") + 8
    large = (16_000).to_bytes(4, "big") + (9_000).to_bytes(4, "big")
    assert look(avif[:at] + large + avif[at + 8 :]).note == "too large to decode: 16000 \u00d7 9000"


WEBPS: Final[tuple[tuple[Image.Image, dict[str, Any]], ...]] = (
    (noise(), {}),
    (noise(), {"lossless": True}),
    (see_through(), {}),
)


# What is damaged


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>The file has expired</html>",
        *(written(noise(), name) for name in ("BMP", "TIFF", "JPEG2000", "ICO", "EPS", "PPM", "TGA")),
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        b"\0\0\0\x18ftypisom\0\0\0\0isommp41" + bytes(100),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"\0\0\0\x18ftypavif\0\0\0\0mif1avif",
        bomb(0, 5),
    ],
)
def test_what_is_no_picture_of_a_known_kind_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged) as caught:
        look(data)
    assert str(caught.value).startswith("The picture ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("gif-animated", "avif-animated", "jpeg-several")]
)
def test_a_picture_that_is_cut_short_is_damaged(name: str) -> None:
    data = pictures()[name]
    # The very end of a file may be no part of its picture: the last bits of a scan, its end marker, padding.
    for length in range(0, len(data) - 64, 1 + len(data) // 150):
        with pytest.raises(Damaged):
            look(data[:length])


def test_a_png_is_compared_to_its_checksums_to_the_last_one_even_if_it_is_too_large() -> None:
    for data in (pictures()["png"], pictures()["png-animated"], bomb(6000, 6000)):
        for cut in (data[:-12], data[: len(data) // 2]):
            with pytest.raises(Damaged):
                look(cut)
        changed = bytearray(data)
        changed[-20] ^= 1
        with pytest.raises(Damaged, match="checksum"):
            look(bytes(changed))


def test_a_gif_that_is_damaged_behind_its_first_frame_is_still_looked_at() -> None:
    assert look(pictures()["gif-animated"][:-1000]).thumbnail is not None


def test_a_gif_whose_first_frame_is_a_bomb_is_damaged() -> None:
    data = pictures()["gif"]
    at = data.find(b",\0\0\0\0" + WIDE[0].to_bytes(2, "little"))
    with pytest.raises(Damaged, match="bomb"):
        look(data[: at + 5] + 2 * (60_000).to_bytes(2, "little") + data[at + 9 :])
    # Pillow would warn of one that is not quite so large, which is judged by its size as any other.
    found = look(data[: at + 5] + 2 * (11_000).to_bytes(2, "little") + data[at + 9 :])
    assert found.note == "too large to decode: 11000 \u00d7 11000"


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damage_at_random_gives_a_look_or_is_said_and_nothing_else_happens(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    file = bytearray(pictures()[name])
    # Most of what can go wrong is in the headers.
    reach = data.draw(st.sampled_from([40, 150, 600, len(file)]))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(reach, len(file) - 1)))
        file[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(min_size=1, max_size=3))
    changed = bytes(file)
    if name.startswith("png") and data.draw(st.booleans()):
        changed = with_true_checksums(changed)
    assert_looked_at_or_damaged(changed)
