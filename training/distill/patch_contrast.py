"""The inner loop of omni-contrast: every student item of a patch against every teacher item of the same patch.

For items s_i, t_j of one patch, l_ij = -d(s_i, t_j) / temperature, and the loss is the sum over rows i of
logsumexp_j(l_ij) - l_ii over the pairs that count. Patches go through in chunks; the value and its gradient
are made together (see precomputed_gradient.py), so neither the [P, K, K] pair matrix nor the [P, K, K, c] buffer of
cdist's backward ever exists. The teacher gets no gradient.
"""

from typing import Literal

import torch
from torch import Tensor

from semseg_app.training.losses.precomputed_gradient import carry_gradients, zeros_if

Distance = Literal["l1", "l2", "sq_l2"]

PAIRS_PER_CHUNK = 1 << 21
"""8 MiB of float32. Chunks that fit the cache are no quicker, and many short loops wait for each other's threads."""
DIFFERENCES_PER_CHUNK = 1 << 26
"""On a GPU cdist's L1 backward holds pairs x c differences: 256 MiB of float32."""


@torch.library.custom_op("semseg::patch_contrast", mutates_args=())
def patch_contrast(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    channel_groups: int,
    all_negatives: bool,
    distance: str,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """-> (loss summed over all rows, its gradient for `student`, empty unless `with_gradient`).

    Args:
        student: float32 or float64 `[P, K, c]`, K items a patch.
        teacher: like `student`; the item at the same place is the positive.
        temperature: divides the distances.
        channel_groups: item k belongs to group k modulo channel_groups.
        all_negatives: False leaves out the pairs of one group that are not the positive.
        distance: a `Distance`.
        with_gradient: whether to make the gradient.
    """
    patches, items, width = student.shape
    measure, pull_back = _DISTANCES[distance]
    losses = student.new_empty(patches, items)
    gradient = zeros_if(with_gradient, student)
    pairs = PAIRS_PER_CHUNK
    if student.is_cuda:
        pairs = DIFFERENCES_PER_CHUNK // width if distance == "l1" else DIFFERENCES_PER_CHUNK
    patch_step = max(pairs // items**2, 1)
    row_step = min(max(pairs // items, 1), items)  # only patches of more than 2^11 items are cut into rows
    group = torch.arange(items, device=student.device) % channel_groups
    with torch.autocast(student.device.type, enabled=False):
        for start in range(0, patches, patch_step):
            chunk = slice(start, start + patch_step)
            others = teacher[chunk]
            for row in range(0, items, row_step):
                rows = slice(row, row + row_step)
                own = student[chunk, rows]
                distances = measure(own, others, row)  # [p, r, K]
                logits = distances * (-1 / temperature)
                if not all_negatives:
                    neither = group[rows].unsqueeze(1) == group
                    neither.diagonal(row).fill_(False)
                    logits.masked_fill_(neither, -torch.inf)
                losses[chunk, rows] = -logits.log_softmax(dim=2).diagonal(row, 1, 2)  # five times as quick as logsumexp
                if with_gradient:  # dloss/dd_ij = (1[i = j] - p_ij) / temperature
                    pull = logits.softmax(dim=2).div_(-temperature)
                    pull.diagonal(row, 1, 2).add_(1 / temperature)
                    gradient[chunk, rows] = pull_back(pull, own, others, distances)
    return losses.sum(), gradient


carry_gradients(patch_contrast, inputs=1)


def _l1(own: Tensor, others: Tensor, row: int) -> Tensor:
    """`[p, r, c], [p, K, c] -> [p, r, K]`."""
    return torch.cdist(own, others, p=1.0)


def _l1_gradient(pull: Tensor, own: Tensor, others: Tensor, distances: Tensor) -> Tensor:
    """sum_j pull_ij sign(s_i - t_j), `[p, r, c]`."""
    return torch.ops.aten._cdist_backward(pull, own.contiguous(), others.contiguous(), 1.0, distances)


def _squared_l2(own: Tensor, others: Tensor, row: int) -> Tensor:
    """|s|^2 + |t|^2 - 2 s.t as one product, around the patch's mean and with exact positives, against cancellation."""
    center = others.mean(dim=1, keepdim=True)
    own_centered, others_centered = own - center, others - center
    own_norms = own_centered.square().sum(dim=2, keepdim=True)
    other_norms = others_centered.square().sum(dim=2).unsqueeze(1)
    squares = torch.baddbmm(own_norms + other_norms, own_centered, others_centered.mT, alpha=-2).clamp_(min=0)
    positives = (own - others[:, row : row + own.shape[1]]).square().sum(dim=2)
    squares.diagonal(row, 1, 2).copy_(positives)
    return squares


def _squared_l2_gradient(pull: Tensor, own: Tensor, others: Tensor, distances: Tensor) -> Tensor:
    """2 sum_j pull_ij (s_i - t_j); the rows of pull sum to zero, so s_i drops out."""
    return torch.bmm(pull, others).mul_(-2)


def _l2(own: Tensor, others: Tensor, row: int) -> Tensor:
    return _squared_l2(own, others, row).sqrt_()


def _l2_gradient(pull: Tensor, own: Tensor, others: Tensor, distances: Tensor) -> Tensor:
    """sum_j pull_ij (s_i - t_j) / d_ij, and nothing where the two meet."""
    steepness = pull.div_(distances.masked_fill_(distances == 0, torch.inf))
    return steepness.sum(dim=2, keepdim=True) * own - torch.bmm(steepness, others)


_DISTANCES = {"l1": (_l1, _l1_gradient), "l2": (_l2, _l2_gradient), "sq_l2": (_squared_l2, _squared_l2_gradient)}
