"""Reads what Label Studio calls RLE: a plain decoder to compare with."""

import numpy as np


def unpacked(data: list[int]) -> np.ndarray:
    """Bit by bit, as rle-pack's own decoder goes: the values, uint8 `[N]`."""
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    size, word, widths = read(32), read(5) + 1, [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < size:
        is_run = read(1)
        length = read(widths[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    assert len(values) == size
    assert len(bits) - at < 8
    return np.array(values, np.uint8)
