"""InfoNCE between labeled anchors and candidates, whose denominators hold one positive and the negatives only.

For anchor i with logits s_ij, positives P_i of its class and negatives N_i of the others,

    loss_i = 1 / |P_i| sum over j in P_i of -log[ exp(s_ij) / (exp(s_ij) + sum over n in N_i of exp(s_in)) ]
           = 1 / |P_i| sum over j in P_i of softplus(m_i - s_ij),  m_i = logsumexp over n in N_i of s_in

(Pissas et al., ECCV 2022; this is not SupCon's loss, whose denominator holds all positives.) Anchors are sorted by
class, so the positives of a chunk of rows are a narrow band of columns, and softplus is taken only there. Value and
gradients are computed chunk by chunk (see precomputed_gradient.py): memory grows with the number of anchors, not with
its square. The vectors are normalized inside, so autograd keeps no unit vectors for each of the losses that share them.
"""

import torch
from torch import Tensor
from torch.nn import functional

from semseg_app.training.losses.precomputed_gradient import carry_gradients, wants_gradient, zeros_if

PAIRS_PER_CHUNK = 1 << 22
"""16 MiB of float32, some 400 rows of 10000: enough for matrix products at full speed."""
SHORTEST = 1e-12
"""Shorter vectors are divided by this instead of their length, as torch's `normalize` does."""


def class_contrast(
    anchors: Tensor, anchor_labels: Tensor, candidates: Tensor, candidate_labels: Tensor, temperature: float
) -> Tensor:
    """Mean of loss_i over the filled anchors; 0, attached to the graph, when every slot is empty.

    An anchor without positives contributes 0 and stays in the mean. When `candidates` is `anchors`, no anchor is its
    own positive.

    Args:
        anchors: float32 or float64 `[N, D]`, before normalization.
        anchor_labels: int64 `[N]`; -1 = empty slot.
        candidates: `[M, D]`, before normalization.
        candidate_labels: int64 `[M]`; -1 = empty slot.
        temperature: tau.
    """
    loss, *_ = _class_contrast(
        anchors,
        candidates,
        anchor_labels,
        candidate_labels,
        temperature,
        candidates is anchors,
        wants_gradient(anchors),
        wants_gradient(candidates),
    )
    return loss


@torch.library.custom_op("semseg::class_contrast", mutates_args=())
def _class_contrast(
    anchors: Tensor,
    candidates: Tensor,
    anchor_labels: Tensor,
    candidate_labels: Tensor,
    temperature: float,
    same: bool,
    anchor_gradient: bool,
    candidate_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> loss, gradient for the anchors, gradient for the candidates; a gradient is empty unless its flag is set.

    `same`: anchors and candidates are the same pixels, and no pixel is its own positive.
    """
    loss = anchors.new_zeros(())
    gradient, other_gradient = zeros_if(anchor_gradient, anchors), zeros_if(candidate_gradient, candidates)
    rows, row_labels = _sorted_by_class(anchor_labels)
    columns, column_labels = _sorted_by_class(candidate_labels)
    if len(rows) == 0 or len(columns) == 0:
        return loss, gradient, other_gradient

    with torch.autocast(anchors.device.type, enabled=False):
        queries, query_lengths = _normalized(anchors[rows])
        keys, key_lengths = (queries, query_lengths) if same else _normalized(candidates[columns])
        queries = queries / temperature
        # Columns of each row's class; both label lists are sorted, so one chunk's classes are one range of columns.
        lefts = torch.searchsorted(column_labels, row_labels)
        rights = torch.searchsorted(column_labels, row_labels, right=True)
        step = max(PAIRS_PER_CHUNK // len(keys), 1)
        starts = torch.arange(0, len(queries), step, device=queries.device)
        ends = (starts + step).clamp(max=len(queries))
        chunks = torch.stack([starts, ends, lefts[starts], rights[ends - 1]], dim=1).tolist()
        sorted_gradient = torch.empty_like(queries) if anchor_gradient else None
        sorted_other = torch.zeros_like(keys) if candidate_gradient else None
        for start, end, left, right in chunks:
            chunk = slice(start, end)
            logits = queries[chunk] @ keys.T  # [r, M]
            positive = row_labels[chunk].unsqueeze(1) == column_labels[left:right]  # [r, band]
            close = logits[:, left:right].clone()
            logits[:, left:right].masked_fill_(positive, -torch.inf)
            if same:
                positive.diagonal(start - left).fill_(False)
            top = logits.amax(dim=1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)  # no negative: -inf
            logits.sub_(top).exp_()
            mass = logits.sum(dim=1, keepdim=True)
            excess = (top + mass.log()).sub(close)  # m_i - s_ij
            weight = positive.to(excess.dtype) / positive.sum(dim=1, keepdim=True).clamp(min=1)
            loss += (functional.softplus(excess, threshold=40) * weight).sum()
            if sorted_gradient is not None or sorted_other is not None:
                pull = excess.sigmoid_().mul_(weight)  # -dloss/ds_ij of the positives
                logits.mul_(pull.sum(dim=1, keepdim=True) / mass.clamp(min=torch.finfo(mass.dtype).tiny))
                logits[:, left:right] -= pull
                if sorted_gradient is not None:
                    torch.matmul(logits, keys, out=sorted_gradient[chunk])
                if sorted_other is not None:
                    sorted_other.addmm_(logits.T, queries[chunk])

        scale = 1 / len(queries)
        loss *= scale
        if sorted_gradient is not None:
            gradient[rows] = _before_normalization(sorted_gradient.mul_(scale), queries, query_lengths, temperature)
        if sorted_other is not None:
            other_gradient[columns] = _before_normalization(sorted_other.mul_(scale), keys, key_lengths, 1.0)
    return loss, gradient, other_gradient


carry_gradients(_class_contrast, inputs=2)


def _normalized(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """`[N, D]` -> unit vectors `[N, D]` and the lengths `[N, 1]`, which are at least 1e-12."""
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp_(min=SHORTEST)
    return vectors / lengths, lengths


def _before_normalization(gradient: Tensor, scaled: Tensor, lengths: Tensor, temperature: float) -> Tensor:
    """The gradient for vectors x, from the gradient for s = x / (temperature |x|), which it overwrites.

    ds/dx takes the part along x away: a vector's length changes nothing. A vector of length 0 has no such part.
    """
    along = (gradient * scaled).sum(dim=1, keepdim=True).mul_(temperature**2)
    return gradient.addcmul_(along, scaled, value=-1).div_(lengths * temperature)


def _sorted_by_class(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the filled slots in the order of their labels, and those labels."""
    order = labels.argsort(stable=True)
    order = order[int((labels < 0).sum()) :]
    return order, labels[order]
