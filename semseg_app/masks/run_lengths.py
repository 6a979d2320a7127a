"""Binary masks as run lengths, in the form that COCO and pycocotools use."""

import numpy as np

_DIGIT_BITS = 5
_MOST_DIGITS = 13
"""Digits of a 64-bit number."""


def coco_rle(classes: np.ndarray) -> dict[int, str]:
    """uint8 `[H, W]` -> class index -> the `counts` string of COCO's compressed RLE; its `size` is [H, W].

    Runs go down the columns, zeros first (https://github.com/cocodataset/cocoapi, common/maskApi.c).
    """
    if not classes.size:
        return {}
    down = classes.ravel(order="F")
    starts = np.flatnonzero(np.concatenate(([True], down[1:] != down[:-1])))
    ends = np.append(starts[1:], down.size)
    values = down[starts]
    order = np.argsort(values, kind="stable")
    first = np.searchsorted(values[order], indices := np.unique(values))
    groups = np.split(order, first[1:])
    return {
        int(index): compressed(_counts(starts[group], ends[group], down.size))
        for index, group in zip(indices, groups, strict=True)
    }


def _counts(starts: np.ndarray, ends: np.ndarray, size: int) -> np.ndarray:
    """Runs of ones `[N]` -> lengths of zeros, ones, zeros, ... over `size` pixels."""
    edges = np.stack([starts, ends], axis=1).ravel()
    return np.diff(edges, prepend=0, append=size if edges[-1] < size else np.empty(0, int))


def compressed(counts: np.ndarray) -> str:
    """COCO's text for run lengths: from the fourth on, the difference to the count two before; 5 bits per character."""
    numbers = counts.astype(np.int64)
    numbers[3:] -= counts[1:-2]
    digits = np.ones(len(numbers), np.int64)
    for more in range(1, _MOST_DIGITS):
        limit = np.int64(1) << (_DIGIT_BITS * more - 1)  # the last digit's upper bit is the sign
        longer = (numbers >= limit) | (numbers < -limit)
        if not longer.any():
            break
        digits += longer
    ends = np.cumsum(digits)
    which = np.arange(ends[-1]) - np.repeat(ends - digits, digits)
    characters = (np.repeat(numbers, digits) >> (_DIGIT_BITS * which)) & 31
    characters |= (which < np.repeat(digits, digits) - 1) * 32
    return bytes((characters + 48).astype(np.uint8)).decode("ascii")
