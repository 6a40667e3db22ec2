"""Pictures and films for jobs: real files with the prompt on them, always the same for the same request."""

from __future__ import annotations

import io
import random
import textwrap
from dataclasses import dataclass, replace
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont, ImageOps

_LONGEST_SIDE = 1024
_FRAMES = 8
_PILLOW_NAMES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture shows and how it is saved. `seed` picks its colours and shapes."""

    prompt: str
    caption: str
    width: int
    height: int
    format: str
    quality: int
    seed: str
    phase: float = 0.0


def size(ratio: str) -> tuple[int, int]:
    """Turn `16:9` into pixels of exactly that ratio where it fits into 1024, near it where it does not."""
    left, _, right = ratio.partition(":")
    # Python refuses to read numbers of thousands of digits.
    if not (left.isdecimal() and right.isdecimal() and len(ratio) < 100 and int(left) and int(right)):
        return _LONGEST_SIDE, _LONGEST_SIDE
    width, height = int(left), int(right)
    if max(width, height) <= _LONGEST_SIDE:
        scale = _LONGEST_SIDE // max(width, height)
        return width * scale, height * scale
    longest = max(width, height)
    return max(1, width * _LONGEST_SIDE // longest), max(1, height * _LONGEST_SIDE // longest)


@lru_cache(maxsize=64)
def draw(picture: Picture) -> bytes:
    """Draw a picture and encode it in its format."""
    file = io.BytesIO()
    _paint(picture).save(file, _PILLOW_NAMES[picture.format], quality=min(100, max(1, picture.quality)))
    return file.getvalue()


@lru_cache(maxsize=16)
def film(picture: Picture) -> bytes:
    """Draw a film: an animated WebP of eight frames."""
    frames = [_paint(replace(picture, phase=frame / _FRAMES)) for frame in range(_FRAMES)]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], duration=125, loop=0, quality=60)
    return file.getvalue()


def _paint(picture: Picture) -> Image.Image:
    dice = random.Random(picture.seed)
    image = _background(picture, dice)
    _circles(image, picture, dice)
    _write(image, picture)
    return image


def _background(picture: Picture, dice: random.Random) -> Image.Image:
    grey = Image.linear_gradient("L").rotate(dice.choice((0, 90, 180, 270)))
    dark, light = dice.randrange(360), dice.randrange(360)
    colours = ImageOps.colorize(grey, f"hsl({dark}, 60%, 22%)", f"hsl({light}, 75%, 70%)")
    return colours.resize((picture.width, picture.height))


def _circles(image: Image.Image, picture: Picture, dice: random.Random) -> None:
    pen = ImageDraw.Draw(image, "RGBA")
    for _ in range(7):
        x = (dice.random() + picture.phase) % 1 * picture.width
        y, radius = dice.random() * picture.height, dice.uniform(0.04, 0.2) * min(image.size)
        colour = (dice.randrange(256), dice.randrange(256), dice.randrange(256), 110)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _write(image: Image.Image, picture: Picture) -> None:
    letter = max(8, min(image.size) // 24)
    lines = textwrap.wrap(picture.prompt, max(8, int(picture.width * 1.6 / letter)))[:8]
    text = "\n".join([*lines, "", picture.caption])
    pen = ImageDraw.Draw(image, "RGBA")
    font = ImageFont.load_default(letter)
    margin = letter
    left, top, right, bottom = pen.multiline_textbbox((margin * 1.5, margin * 1.5), text, font=font)
    pen.rectangle((left - margin / 2, top - margin / 2, right + margin / 2, bottom + margin / 2), fill=(0, 0, 0, 140))
    pen.multiline_text((margin * 1.5, margin * 1.5), text, font=font, fill="white")
