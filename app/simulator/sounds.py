"""A short piece of music, always the same for the same seed, as a WAV file."""

from __future__ import annotations

import io
import math
import random
import wave
from functools import lru_cache

SECONDS = 2
_RATE = 8_000
_SCALE = (0, 2, 4, 7, 9, 12)


@lru_cache(maxsize=64)
def compose(seed: str) -> bytes:
    """Play four notes of a pentatonic scale over two seconds, mono, 8 bit."""
    dice = random.Random(seed)
    notes = [220 * 2 ** (dice.choice(_SCALE) / 12) for _ in range(4)]
    length = _RATE * SECONDS // len(notes)
    frames = bytearray()
    for pitch in notes:
        for moment in range(length):
            loudness = 90 * (1 - moment / length)
            frames.append(128 + int(loudness * math.sin(2 * math.pi * pitch * moment / _RATE)))
    return _file(bytes(frames))


def _file(frames: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(_RATE)
        sound.writeframes(frames)
    return file.getvalue()
