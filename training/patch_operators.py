"""The operators of S4Former: PatchShuffle, patch-adaptive self-attention (PASA) and negative-class ranking (NCR).

Hu et al., "Training Vision Transformers for Semi-Supervised Semantic Segmentation", CVPR 2024. Where the paper and its
released code differ, the code is followed, because the published numbers came from it; each such place says so.
"""

from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional

from semseg_app.training.losses.pseudo_label import at_least_float32

NCR_EPSILON = 1e-6  # added to every entry before the l2 norm, as the reference does: the norm has a gradient at 0


def unconfidence(confident: Tensor, patch_size: int) -> Tensor:
    """The mean of `1 - confident` over every patch: `[B, H, W]` -> at least float32 `[B, N]`, patches row by row.

    `confident` is 1 or True where the teacher is sure (the code), or the teacher's largest probability (the paper).
    """
    batch, height, width = confident.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            _not_divisible(f"the confidence map is {height}x{width}", height, width, patch_size, "patches")
        )
    values = confident.float() if not confident.is_floating_point() else at_least_float32(confident)
    patches = values.reshape(batch, height // patch_size, patch_size, width // patch_size, patch_size)
    return 1 - patches.mean(dim=(2, 4)).flatten(1)


def attention_bias(confident: Tensor, patch_size: int, weight: float) -> Tensor:
    """PASA: what is added to `Q K^T / sqrt(d)` in every layer and head of the student.

    An unsure patch looks at other unsure patches: `bias[i, j] = weight * u_j` for the queries i of the less confident
    half, 0 for the floor(N / 2) patches of lowest u (ties: the lower index is zeroed first). The median rule of the
    paper's text zeroes every row once most patches tie, so the code's rule is taken.

    Args:
        confident: `[B, H, W]`, bool, 0/1 or probabilities.
        patch_size: side of a patch in pixels; must divide H and W.
        weight: alpha; 0 gives a bias of 0.

    Returns:
        float `[B, 1 + N, 1 + N]`, N = patches. Entry 0 is the class token: its column is 0, its row keeps the key bias
        of the code. Networks without a class token take `[:, 1:, 1:]`.
    """
    unsure = unconfidence(confident, patch_size)  # [B, N]
    patches = unsure.shape[1]
    rank = unsure.argsort(dim=1, stable=True).argsort(dim=1)
    asks = functional.pad((rank >= patches // 2).to(unsure.dtype), (1, 0), value=1.0)  # [B, 1 + N]
    return asks.unsqueeze(2) * functional.pad(weight * unsure, (1, 0)).unsqueeze(1)


def product_attention_bias(confident: Tensor, patch_size: int, weight: float) -> Tensor:
    """The supplement's variant, `weight * u_i * u_j`; otherwise as `attention_bias` (the class token has u_i = 1)."""
    unsure = unconfidence(confident, patch_size)
    return functional.pad(unsure, (1, 0), value=1.0).unsqueeze(2) * functional.pad(weight * unsure, (1, 0)).unsqueeze(1)


PasaForm = Literal["key", "product", "rand", "reverse1", "reverse2"]
"""How PASA's bias follows from the confidence; `key` is published, the rest are the supplement's ablations."""


def pasa_bias(form: PasaForm, confident: Tensor, patch_size: int, weight: float) -> Tensor:
    """PASA's bias in one of its forms, `[B, 1 + N, 1 + N]` (supplement, section S1.3).

    Column 0, the class token's, is 0. `rand`: weight * a uniform random number for every pair of patches. `reverse1`:
    the sure half looks at sure patches. `reverse2`: the unsure half looks at sure patches. Halves are told apart as in
    `attention_bias`, where the class token's row belongs to the unsure half. Random numbers come from torch's global
    generator.
    """
    if form == "key":
        return attention_bias(confident, patch_size, weight)
    if form == "product":
        return product_attention_bias(confident, patch_size, weight)
    unsure = unconfidence(confident, patch_size)
    batch, patches = unsure.shape
    if form == "rand":
        return functional.pad(weight * torch.rand(batch, 1 + patches, patches).to(unsure), (1, 0))
    rank = unsure.argsort(dim=1, stable=True).argsort(dim=1)
    asks = functional.pad((rank >= patches // 2).to(unsure.dtype), (1, 0), value=1.0)
    if form == "reverse1":
        asks = 1 - asks
    return asks.unsqueeze(2) * functional.pad(weight * (1 - unsure), (1, 0)).unsqueeze(1)


def negative_class_ranking(
    student_logits: Tensor,
    teacher_logits: Tensor,
    pseudo_label: Tensor,
    ignore_index: int = 255,
    distance: Literal["l2", "squared", "kl"] = "l2",
) -> Tensor:
    """NCR: student and teacher agree on the classes that a pixel is *not*.

    The pseudo label's class is taken out of both logits, the rest renormalized by softmax and compared. Despite the
    name it is no ranking loss: it is 0 only where the two distributions are equal.

    Args:
        student_logits: `[B, K, H, W]`.
        teacher_logits: `[B, K, H, W]`; no gradient flows there.
        pseudo_label: int `[B, H, W]`; `ignore_index` marks pixels without one.
        ignore_index: see above.
        distance: l2 with 1e-6 added per entry (the code), its square (the supplement), or KL(teacher || student).

    Returns:
        Scalar, at least float32: the sum over labeled pixels / all B*H*W pixels.
    """
    labeled = pseudo_label != ignore_index
    label = torch.where(labeled, pseudo_label, 0).long().unsqueeze(1)  # [B, 1, H, W]
    student = _without_class(student_logits, label)
    teacher = _without_class(teacher_logits.detach(), label)
    if distance == "kl":
        terms = functional.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True)
        pixel_loss = terms.scatter(1, label, 0.0).sum(dim=1)
    else:
        difference = student.softmax(1) - teacher.softmax(1)
        if distance == "squared":
            pixel_loss = difference.square().sum(dim=1)
        else:
            # Back to 0 at the class taken out: only the K - 1 negative classes carry the epsilon.
            pixel_loss = torch.linalg.vector_norm((difference + NCR_EPSILON).scatter(1, label, 0.0), dim=1)
    return (pixel_loss * labeled).sum() / max(labeled.numel(), 1)


SOFT_TEMPERATURE = 2.0


def softened_cross_entropy(student_logits: Tensor, pseudo_label: Tensor, ignore_index: int = 255) -> Tensor:
    """The supplement's Soft, in place of NCR: cross-entropy of the logits divided by 2 (equation 5).

    Args and result as `negative_class_ranking`, without a teacher.
    """
    logits = at_least_float32(student_logits) / SOFT_TEMPERATURE
    total = functional.cross_entropy(logits, pseudo_label.long(), ignore_index=ignore_index, reduction="sum")
    return total / max(pseudo_label.numel(), 1)


def all_class_consistency(
    student_logits: Tensor, teacher_logits: Tensor, pseudo_label: Tensor, ignore_index: int = 255
) -> Tensor:
    """The supplement's All-CR, in place of NCR: squared distance of the probabilities of all classes (equation 6).

    Args and result as `negative_class_ranking`.
    """
    student = at_least_float32(student_logits).softmax(dim=1)
    teacher = at_least_float32(teacher_logits.detach()).softmax(dim=1)
    pixel_loss = (student - teacher).square().sum(dim=1)
    return (pixel_loss * (pseudo_label != ignore_index)).sum() / max(pseudo_label.numel(), 1)


def _without_class(logits: Tensor, label: Tensor) -> Tensor:
    """The logits with a very low, finite value at the pixel's own class (-inf would give NaN where K = 1)."""
    logits = at_least_float32(logits)
    return logits.scatter(1, label, torch.finfo(logits.dtype).min / 4)


def draw_permutation(batch: int, blocks: int, random: Generator, probability: float = 0.5) -> Tensor:
    """int64 `[batch, blocks]` on the generator's device: a uniform permutation with `probability`, else 0, 1, 2 ..."""
    shuffled = torch.rand(batch, blocks, generator=random, device=random.device).argsort(dim=1)
    chosen = torch.rand(batch, 1, generator=random, device=random.device) < probability
    return torch.where(chosen, shuffled, torch.arange(blocks, device=random.device))


def patch_shuffle(images: Tensor, permutation: Tensor, block: int) -> Tensor:
    """PatchShuffle: block k of the output is block `permutation[b, k]` of the input.

    Args:
        images: `[B, C, H, W]`, any type.
        permutation: int `[B, blocks]`, blocks counted row by row; it need not be a square grid.
        block: side of a block in pixels; must divide H and W.
    """
    height, width = images.shape[2:]
    if height % block or width % block:
        raise ValueError(_not_divisible(f"the images are {height}x{width}", height, width, block, "blocks"))
    return _move_blocks(images.movedim(1, 3), permutation, block).movedim(3, 1).contiguous()


def mix_tiles(maps: Tensor, permutation: Tensor, block: int) -> Tensor:
    """Mix/UnMix (Kim et al., "MUM", CVPR 2022): block k of image b comes from image `permutation[k, b]`, at its place.

    The inverse is the same with `permutation.argsort(dim=1)`, on maps of any stride whose cells the blocks hold whole.

    Args:
        maps: `[B, C, H, W]`, images or an encoder's maps.
        permutation: int64 `[blocks, B]`, blocks counted row by row.
        block: side of a block in cells of `maps`; must divide H and W.
    """
    batch, channels, height, width = maps.shape
    if height % block or width % block:
        raise ValueError(_not_divisible(f"the maps are {height}x{width}", height, width, block, "blocks"))
    rows, columns = height // block, width // block
    tiles = maps.reshape(batch, channels, rows, block, columns, block)
    tiles = tiles.permute(2, 4, 0, 1, 3, 5).flatten(0, 1)  # [blocks, B, C, block, block]
    chosen = permutation.to(maps.device)[:, :, None, None, None].expand_as(tiles)
    mixed = tiles.gather(1, chosen).reshape(rows, columns, batch, channels, block, block)
    return mixed.permute(2, 3, 0, 4, 1, 5).reshape(batch, channels, height, width)


def restore_tokens(tokens: Tensor, permutation: Tensor, grid: tuple[int, int], block: int) -> Tensor:
    """The inverse of `patch_shuffle` on the tokens of a shuffled image.

    Args:
        tokens: `[B, h w, D]` without class token, row by row.
        permutation: what the images were shuffled with, `[B, blocks]`.
        grid: (h, w).
        block: side of a block in tokens; must divide h and w.
    """
    height, width = grid
    if height % block or width % block:
        raise ValueError(_not_divisible(f"the token grid is {height}x{width}", height, width, block, "blocks"))
    if tokens.shape[1] != height * width:
        raise ValueError(
            f"{tokens.shape[1]} tokens do not fill a grid of {height}x{width}; take class tokens off first"
        )
    maps = tokens.reshape(len(tokens), height, width, tokens.shape[2])
    return _move_blocks(maps, permutation.argsort(dim=1), block).flatten(1, 2)


def _move_blocks(maps: Tensor, source: Tensor, block: int) -> Tensor:
    """`[B, h, w, D]` -> the same shape, whose block k is the input's block `source[b, k]`."""
    batch, height, width, depth = maps.shape
    rows, columns = height // block, width // block
    if source.shape != (batch, rows * columns):
        raise ValueError(
            f"permutation is {tuple(source.shape)}, but {batch} images of {rows}x{columns} blocks need "
            f"{(batch, rows * columns)}"
        )
    blocks = maps.reshape(batch, rows, block, columns, block, depth).transpose(2, 3).reshape(batch * rows * columns, -1)
    first = torch.arange(0, len(blocks), rows * columns, device=maps.device).unsqueeze(1)  # each image's block 0
    moved = blocks.index_select(0, (source.to(maps.device) + first).flatten())
    moved = moved.reshape(batch, rows, columns, block, block, depth).transpose(2, 3)
    return moved.reshape(batch, height, width, depth)


def _not_divisible(found: str, height: int, width: int, side: int, what: str) -> str:
    best = f"{max(round(height / side), 1) * side}x{max(round(width / side), 1) * side}"
    return f"{found}, which {what} of {side} do not fill; use {best}"
