"""Photos of which no two are near-duplicates: of a video's neighboring frames one is enough."""

import numpy as np

SIDE = 16
"""Of a thumbnail."""


def distinct(thumbnails: np.ndarray, order: np.ndarray, fixed: np.ndarray, limit: float) -> np.ndarray:
    """Take photos in turn, except those that nearly repeat one that was taken before.

    Args:
        thumbnails: uint8 `[N, 256]`, 16x16 gray pixels of each photo (`inspect_image`).
        order: int `[M]`, the candidates, the preferred one first.
        fixed: int `[L]`, photos that count as taken from the start, such as the labeled ones.
        limit: two photos are near-duplicates where their thumbnails differ by less on average.

    Returns:
        int `[K]`: those of `order` that were taken, in that order.
    """
    # Means over the whole thumbnail and over its 16 blocks of 4x4 differ by no more than the thumbnails do: most pairs
    # are told apart by them, and 50,000 photos need no comparison of all pairs in full.
    blocks = thumbnails.reshape(-1, 4, 4, 4, 4).mean(axis=(2, 4), dtype=np.float32).reshape(-1, 16)
    means = blocks.mean(axis=1)
    by_mean = np.argsort(means, kind="stable")
    sorted_means, sorted_blocks = means[by_mean], blocks[by_mean]
    position = np.empty(len(means), int)
    position[by_mean] = np.arange(len(means))
    taken = np.zeros(len(means), bool)
    taken[position[fixed]] = True
    kept = []
    for index in order.tolist():
        low, high = np.searchsorted(sorted_means, (means[index] - limit, means[index] + limit))
        near = low + np.flatnonzero(taken[low:high])
        near = near[np.abs(sorted_blocks[near] - blocks[index]).mean(axis=1) < limit]
        others = thumbnails[by_mean[near]].astype(np.int16)
        if (np.abs(others - thumbnails[index]).mean(axis=1) < limit).any():
            continue
        taken[position[index]] = True
        kept.append(index)
    return np.array(kept, int)
