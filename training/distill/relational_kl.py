"""KL divergence between two sets of similarity distributions, chunk by chunk.

For student rows a_r with keys k_gn and teacher rows b_r with keys l_gn,

    sum over r, g of weight_r * KL( softmax_n(b_r . l_gn / temperature) || softmax_n(a_r . k_gn / temperature) )

is what CIRKD compares, with the pixels of other images or the entries of a queue as keys. The similarity matrices (256
MiB for one pair of 64 x 128 maps) exist a chunk of rows at a time; see precomputed_gradient.py.
"""

import torch
from torch import Tensor

from semseg_app.training.losses.precomputed_gradient import carry_gradients, wants_gradient, zeros_if

PAIRS_PER_CHUNK = 1 << 22


def relational_kl(
    rows: Tensor, keys: Tensor, teacher_rows: Tensor, teacher_keys: Tensor, weights: Tensor, temperature: float
) -> Tensor:
    """The formula above, as a scalar. Gradients reach `rows` and `keys`.

    Args:
        rows: float32 or float64 `[R, D]`.
        keys: `[G, N, D]`: the softmax is over N, once for each of G groups.
        teacher_rows: `[R, E]`.
        teacher_keys: `[G, N, E]`.
        weights: `[R]`.
        temperature: divides the similarities.
    """
    loss, *_ = _relational_kl(
        rows, keys, teacher_rows, teacher_keys, weights, temperature, wants_gradient(rows), wants_gradient(keys)
    )
    return loss


@torch.library.custom_op("semseg::relational_kl", mutates_args=())
def _relational_kl(
    rows: Tensor,
    keys: Tensor,
    teacher_rows: Tensor,
    teacher_keys: Tensor,
    weights: Tensor,
    temperature: float,
    row_gradient: bool,
    key_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> loss, gradient for the rows, gradient for the keys; each gradient empty unless requested."""
    groups, length, _ = keys.shape
    loss = rows.new_zeros(())
    gradient, other_gradient = zeros_if(row_gradient, rows), zeros_if(key_gradient, keys)
    flat_keys, flat_teacher_keys = keys.reshape(groups * length, -1), teacher_keys.reshape(groups * length, -1)
    step = max(PAIRS_PER_CHUNK // len(flat_keys), 1)
    with torch.autocast(rows.device.type, enabled=False):
        for start in range(0, len(rows), step):
            chunk = slice(start, start + step)
            weight = weights[chunk].view(-1, 1, 1)
            logits = ((rows[chunk] / temperature) @ flat_keys.T).view(-1, groups, length).log_softmax(dim=2)
            target = ((teacher_rows[chunk] / temperature) @ flat_teacher_keys.T).view(-1, groups, length)
            target = target.log_softmax(dim=2)
            probability = target.exp()
            loss += (target.sub_(logits).mul_(probability) * weight).sum()
            if row_gradient or key_gradient:
                pull = logits.exp_().sub_(probability).mul_(weight / temperature).flatten(1)  # dloss / dsimilarity
                if row_gradient:
                    gradient[chunk] = pull @ flat_keys
                if key_gradient:
                    other_gradient.view(groups * length, -1).addmm_(pull.T, rows[chunk])
    return loss, gradient, other_gradient


carry_gradients(_relational_kl, inputs=2)
