"""Binary masks as Label Studio's brush: run lengths of RGBA values, packed bit by bit.

The format is that of rle-pack (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack): the number of values
in 32 bits, the bits per value minus 1 in 5, four widths of run lengths, each minus 1, in 4 bits each; then for every
run a 1, the index of its width in 2 bits, the length minus 1 in that many bits, the value in 8. The format also has
runs of unequal values; masks do not need them.
"""

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
