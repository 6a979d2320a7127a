"""The header of a TIFF, read with bounded memory: Pillow and libtiff allocate what a header asks for."""

import struct
from typing import BinaryIO

BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, SAMPLES_PER_PIXEL = 258, 259, 262, 277
NEW_SUBFILE_TYPE = 254
WIDTH, HEIGHT, ROWS_PER_STRIP, TILE_WIDTH, TILE_HEIGHT = 256, 257, 278, 322, 323
ORIENTATION, EXTRA_SAMPLES, SAMPLE_FORMAT = 274, 338, 339
STRIP_OFFSETS, TILE_OFFSETS = 273, 324
PIXEL_SCALE, TIE_POINTS, TRANSFORM, GEO_KEYS, NODATA = 33550, 33922, 34264, 34735, 42113

CODECS = {34887: "LERC", 34925: "LZMA", 50000: "ZSTD", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"}
"""Compressions that Pillow and libvips are often built without."""

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How a TIFF begins; "+" marks a BigTIFF."""
MOST_METADATA = 64 * 2**20
"""Bytes of all tag values together. Pillow keeps a copy of each, and a small file can name one range many times."""
_MOST_VALUES = 4096
"""Values kept per tag; longer ones (strip offsets, color profiles) are only counted."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes per value of each field type."""
_CODES = {1: "B", 2: "B", 3: "H", 4: "L", 11: "f", 12: "d", 16: "Q"}
"""Field types whose values are returned, as `struct` names them; of texts, the bytes."""

Tags = dict[int, tuple[float, ...]]


class TiffError(ValueError):
    """The header is damaged, or its metadata is larger than MOST_METADATA."""


def is_tiff(start: bytes) -> bool:
    """Whether a file that begins with these four bytes is a TIFF or a BigTIFF."""
    return start[:4] in MAGIC


def read_tags(file: BinaryIO) -> Tags:
    """The numeric tags of the first image: tag -> values. Source: TIFF 6.0 section 2 and the BigTIFF design.

    Reads at most a few kilobytes per tag. TiffError when the header is damaged or asks for too much memory.
    """
    try:
        return _read_tags(file)
    except struct.error:
        raise TiffError("the TIFF header is truncated or damaged") from None


def number(tags: Tags, tag: int, default: int) -> int:
    """The first value of a tag as an integer, or `default`."""
    return int(tags[tag][0]) if tags.get(tag) else default


def _read_tags(file: BinaryIO) -> Tags:
    file.seek(0)
    start = file.read(16)
    order = "<" if start[:2] == b"II" else ">"
    big = start[2:4] in (b"+\0", b"\0+")
    count_code, entry_code, inline = ("Q", "HHQ8s", 8) if big else ("H", "HHL4s", 4)
    (offset,) = struct.unpack_from(order + ("Q" if big else "L"), start, 8 if big else 4)
    file.seek(offset)
    (entries,) = struct.unpack(order + count_code, file.read(struct.calcsize(order + count_code)))
    if entries > 65535:
        raise TiffError(f"the TIFF header names {entries} tags")
    size = struct.calcsize(order + entry_code)
    table = file.read(size * entries)
    if len(table) < size * entries:
        raise TiffError("the TIFF header is truncated or damaged")
    tags: Tags = {}
    metadata = 0
    for tag, kind, count, value in struct.iter_unpack(order + entry_code, table):
        length = _SIZES.get(kind, 1) * count
        metadata += length
        if metadata > MOST_METADATA:
            raise TiffError(f"the TIFF header has more than {MOST_METADATA // 2**20} MiB of metadata")
        code = _CODES.get(kind)
        if code is None or not count or count > _MOST_VALUES:
            continue
        if length > inline:
            file.seek(struct.unpack(order + ("Q" if big else "L"), value)[0])
            value = file.read(length)
        tags.setdefault(tag, struct.unpack_from(f"{order}{count}{code}", value))
    return tags
