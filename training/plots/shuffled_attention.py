"""What a patch looks at while the blocks of its photo have changed places (PatchShuffle of S4Former)."""

import torch
from torch import Tensor

from semseg_app.errors import UserError
from semseg_app.models import SegmentationNetwork
from semseg_app.plots.attention import AttentionRow, attention_row
from semseg_app.training.data.randomness import generator
from semseg_app.training.patch_operators import draw_permutation, patch_shuffle, restore_tokens


def shuffled(images: Tensor, block: int, seed: int) -> tuple[Tensor, Tensor]:
    """A photo `[1, 3, H, W]` with its blocks in random order, and that order, int64 `[1, blocks]`.

    UserError where blocks of that side do not fill the photo.
    """
    count = max(images.shape[2] // block, 1) * max(images.shape[3] // block, 1)
    order = draw_permutation(1, count, generator(seed, "plot/shuffle"), probability=1.0)
    try:
        return patch_shuffle(images, order.to(images.device), block), order
    except ValueError as error:
        raise UserError(f"--shuffle {block}: {error}") from None


def shuffled_attention_row(
    network: SegmentationNetwork, images: Tensor, order: Tensor, block: int, column: int, row: int, layer: int = -1
) -> AttentionRow:
    """As `attention_row`, of the photo shuffled by `order`; the weights are put back to where the patches come from.

    Args:
        network: see `attention_row`.
        images: what `shuffled` gave.
        order: what `shuffled` gave.
        block: the side of its blocks, a multiple of the network's patch (UserError otherwise).
        column: of the pixel in the photo before the shuffle.
        row: of the pixel in the photo before the shuffle.
        layer: see `attention_row`.
    """
    side = network.attention_patch
    if side is not None and block % side:
        raise UserError(f"--shuffle {block}: is no multiple of the patch of {network.spec.encoder}, {side} pixels")
    across = images.shape[3] // block
    origin = row // block * across + column // block
    moved_to = int((order[0] == origin).nonzero())
    moved_row = moved_to // across * block + row % block
    moved_column = moved_to % across * block + column % block
    seen = attention_row(network, images, moved_column, moved_row, layer)
    tokens = torch.from_numpy(seen.weights).reshape(1, -1, 1)
    rows, columns = seen.weights.shape
    restored = restore_tokens(tokens, order, (rows, columns), block // seen.patch)
    weights = restored.reshape(rows, columns).numpy()
    return seen._replace(weights=weights, cell=(row // seen.patch, column // seen.patch))
