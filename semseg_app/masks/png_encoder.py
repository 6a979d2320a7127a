"""PNG files of class and confidence maps, encoded fast.

Class and confidence maps are long runs and smooth ramps. Each row minus the one above it (PNG's filter 2, "Up") is
nearly all zeros, and ISA-L deflates zeros at the speed of memory: 16 megapixels in a few milliseconds, where Pillow's
default takes hundreds and gives a file of about the same size. Four bits per pixel would halve the file, but
packing them takes longer than everything else, and 255 (unknown) would not fit.
"""

import struct
import zlib
from collections.abc import Mapping

import numpy as np
from isal import isal_zlib

LEVEL = 1
"""ISA-L's level. On class maps 0 is no faster and its files are larger; 2 and 3 are slower and save nothing."""
GRAY, RGB, INDEXED = 0, 2, 3
"""Color types (https://www.w3.org/TR/png-3/#6Color-values)."""
UP = 2


def encode_png(pixels: np.ndarray, palette: np.ndarray | None = None, text: Mapping[str, str] | None = None) -> bytes:
    """Encode with 8 bits per channel.

    Args:
        pixels: uint8, gray or indexed `[H, W]` or RGB `[H, W, 3]`.
        palette: uint8 `[N, 3]`, N up to 256; `[H, W]` are then indices into it.
        text: stored in the file as compressed text chunks; keys are Latin-1 of at most 79 characters.
    """
    height, width = pixels.shape[:2]
    kind = RGB if pixels.ndim == 3 else GRAY if palette is None else INDEXED
    parts = [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))]
    if palette is not None:
        parts.append(_chunk(b"PLTE", palette.tobytes()))
    for key, value in (text or {}).items():
        # Key, 0, compressed (1) by deflate (0), no language, no translated key.
        parts.append(_chunk(b"iTXt", key.encode("latin-1") + b"\0\1\0\0\0" + zlib.compress(value.encode())))
    parts.append(_chunk(b"IDAT", isal_zlib.compress(_filtered(pixels.reshape(height, -1)), LEVEL)))
    parts.append(_chunk(b"IEND", b""))
    return b"".join(parts)


def _filtered(rows: np.ndarray) -> np.ndarray:
    """uint8 `[H, bytes]` -> `[H, 1 + bytes]`: the filter's number, then each row minus the one above, modulo 256."""
    filtered = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return filtered


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
