"""Result files of every kind, made on the spot: small real pictures and sounds, and films of any length."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import wave
from functools import cached_property

from PIL import Image

_BLOCK_BYTES = 65_536


def png(width: int = 16, height: int = 16, seed: int = 0) -> bytes:
    """A picture of noise; another seed gives another picture."""
    return _picture("PNG", width, height, seed)


def jpeg(width: int = 16, height: int = 16, seed: int = 0) -> bytes:
    """The same as a JPEG."""
    return _picture("JPEG", width, height, seed)


def webp(width: int = 16, height: int = 16, seed: int = 0) -> bytes:
    """The same as a WebP."""
    return _picture("WEBP", width, height, seed)


def wav(seconds: float = 0.1, seed: int = 0) -> bytes:
    """Noise to be heard: 16 bits, one channel, 8 kHz."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as writer:
        writer.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        writer.writeframes(_noise(seed, 2 * round(8000 * seconds)))
    return sound.getvalue()


class Film:
    """An MP4 of exactly `size` bytes that is never in memory as a whole: a head, then one block of noise again and again.

    Its boxes are right as far as they go, so what looks at the head takes it for a film; nothing can play it.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        kind = b"isom" + struct.pack(">I", 512) + b"isomiso2avc1mp41"
        brands = struct.pack(">I", 8 + len(kind)) + b"ftyp" + kind
        # A size of 1 says that the real one follows in 64 bits, which a film of over 4 GB needs.
        self.head = brands + struct.pack(">I4sQ", 1, b"mdat", size - len(brands))
        assert size >= len(self.head), f"a film has at least {len(self.head)} bytes"
        self.size = size
        self._block = _noise(seed, _BLOCK_BYTES)

    def part(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`, fewer at the end."""
        stop = min(stop, self.size)
        parts = [self.head[start:stop]]
        at = max(start, len(self.head))
        while at < stop:
            offset = (at - len(self.head)) % _BLOCK_BYTES
            piece = self._block[offset : offset + stop - at]
            parts.append(piece)
            at += len(piece)
        return b"".join(parts)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the whole film, in hexadecimal."""
        digest = hashlib.sha256()
        for start in range(0, self.size, _BLOCK_BYTES):
            digest.update(self.part(start, start + _BLOCK_BYTES))
        return digest.hexdigest()


def _picture(kind: str, width: int, height: int, seed: int) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (width, height), _noise(seed, 3 * width * height)).save(file, kind)
    return file.getvalue()


def _noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)
