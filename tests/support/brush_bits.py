"""What Label Studio calls RLE, bit by bit: a plain decoder and encoder to compare with."""

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


def pack(mask: np.ndarray, alpha: int) -> list[int]:
    """bool `[H, W]` -> bytes: runs of up to 8 values, and single values as rle-pack's runs of unequal ones.

    Red, green and blue are 0; only alpha says what is brushed.
    """
    values = (mask.reshape(-1, 1) * np.array([0, 0, 0, alpha])).ravel().tolist()
    widths = (1, 2, 3, 16)
    bits = f"{len(values):032b}{8 - 1:05b}" + "".join(f"{width - 1:04b}" for width in widths)
    at = 0
    while at < len(values):
        end = at
        while end < len(values) and end < at + 8 and values[end] == values[at]:
            end += 1
        if end - at > 2:
            bits += f"1{2:02b}{end - at - 1:03b}{values[at]:08b}"
        else:
            bits += f"0{0:02b}{end - at - 1:01b}" + "".join(f"{value:08b}" for value in values[at:end])
        at = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]
