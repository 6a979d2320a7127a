"""A class map as a PNG, written from top to bottom: only the rows being written are in memory."""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from semseg_app.masks import COMPRESS_LEVEL, Palette

PALETTE_ENTRIES = 256
"""Always the full palette, as in masks.indexed_png: pixels stay bytes, and 255 stays 255."""


class PngStrips:
    """An 8-bit indexed PNG of `height` x `width` pixels; `write` takes its rows in order, `close` ends the file.

    Pillow encodes whole images only. This class writes the four kinds of chunk that such a file needs
    (https://www.w3.org/TR/png-3/); zlib compresses.

    Args:
        path: the file to write; an existing one is replaced.
        palette: the colors that viewers show.
        text: stored in the file as compressed text chunks.
    """

    def __init__(self, path: Path, height: int, width: int, palette: Palette, text: Mapping[str, str] | None = None):
        self.height, self.width = height, width
        self._rows = 0
        self._deflate = zlib.compressobj(COMPRESS_LEVEL)
        colors = np.zeros((PALETTE_ENTRIES, 3), np.uint8)
        colors[: len(palette)] = palette
        self._file = path.open("wb")
        self._file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        self._chunk(b"PLTE", colors.tobytes())
        for key, value in (text or {}).items():
            self._chunk(b"zTXt", key.encode("latin-1") + b"\0\0" + zlib.compress(value.encode("latin-1", "replace")))

    def __enter__(self) -> "PngStrips":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self._file.close()

    def write(self, rows: np.ndarray) -> None:
        """Add uint8 `[h, width]`."""
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(f"rows are uint8 [h, {self.width}]; got {rows.dtype} {list(rows.shape)}")
        filtered = np.zeros((len(rows), self.width + 1), np.uint8)  # each row begins with its filter: 0, none
        filtered[:, 1:] = rows
        self._rows += len(rows)
        if data := self._deflate.compress(filtered.data):
            self._chunk(b"IDAT", data)

    def close(self) -> None:
        """End the file. ValueError when rows are missing or too many."""
        if self._rows != self.height:
            raise ValueError(f"{self._rows} rows were written of an image of {self.height}")
        self._chunk(b"IDAT", self._deflate.flush())
        self._chunk(b"IEND", b"")
        self._file.close()

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
