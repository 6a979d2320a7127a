"""Binary masks as Label Studio's brush: run lengths of RGBA values, packed bit by bit.

The format is that of rle-pack (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack): the number of values
in 32 bits, the bits per value minus 1 in 5, four widths of run lengths, each minus 1, in 4 bits each; then for every
run a 1, the index of its width in 2 bits, the length minus 1 in that many bits, the value in 8. The format also has
runs of unequal values; the encoder does not need them.
"""

from collections.abc import Sequence

import numpy as np

_WIDTHS = np.array([3, 4, 8, 16])
_LONGEST = 1 << 16
_CHANNELS = 4


def brush_rle(mask: np.ndarray) -> list[int]:
    """bool `[H, W]` -> the list of bytes that a brush label holds: all four channels are 255 where the mask is true."""
    flat = np.ascontiguousarray(mask, bool).ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    lengths = np.diff(starts, append=flat.size) * _CHANNELS
    pieces = -(-lengths // _LONGEST)
    values = np.repeat(flat[starts] * 255, pieces)
    ends = np.cumsum(pieces)
    whole = np.full(len(values), _LONGEST)
    whole[ends - 1] = lengths - (pieces - 1) * _LONGEST
    kind = np.searchsorted(1 << _WIDTHS, whole)
    width = _WIDTHS[kind]
    # One number per run: 1, kind, length, value, from the upper bits down.
    words = (((4 | kind) << width | (whole - 1)) << 8) | values
    head = [(mask.size * _CHANNELS, 32), (8 - 1, 5), *((width - 1, 4) for width in _WIDTHS.tolist())]
    numbers = np.concatenate([[number for number, _ in head], words])
    bits = np.concatenate([[bits for _, bits in head], 3 + width + 8])
    ends = np.cumsum(bits)
    shift = np.repeat(ends, bits) - np.arange(ends[-1]) - 1  # the position of each bit in its number
    packed: list[int] = np.packbits((np.repeat(numbers, bits) >> shift & 1).astype(np.uint8)).tolist()
    return packed


def decode_brush_rle(packed: Sequence[int], height: int, width: int) -> np.ndarray:
    """The list of bytes that a brush label holds -> bool `[height, width]`: where alpha is above 0.

    Label Studio's own brush writes alpha 255, its helpers write 1 or 100. ValueError for a list that is not in the
    format, or is of another size.
    """
    data = bytes(packed)
    position = 0

    def take(bits: int) -> int:
        nonlocal position
        end = position + bits
        if end > 8 * len(data):
            raise ValueError("the run lengths end too early")
        chunk = int.from_bytes(data[position // 8 : (end + 7) // 8], "big") >> (-end % 8)
        position = end
        return chunk & ((1 << bits) - 1)

    size, bits = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    if size != height * width * _CHANNELS:
        raise ValueError(f"the run lengths are of {size // _CHANNELS:,} pixels, not of {width}x{height}")
    values: list[int] = []
    lengths: list[int] = []
    filled = 0
    while filled < size:
        equal, length = take(1), take(widths[take(2)]) + 1
        values += [take(bits)] if equal else [take(bits) for _ in range(min(length, size - filled))]
        lengths += [length] if equal else [1] * min(length, size - filled)
        filled += length
    if filled > size:
        raise ValueError("the run lengths go beyond the picture")
    pixels = np.repeat(np.array(values) > 0, lengths)
    alpha: np.ndarray = pixels.reshape(height, width, _CHANNELS)[..., -1]
    return alpha
