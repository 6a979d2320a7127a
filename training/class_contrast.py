"""InfoNCE between labeled anchors and candidates, whose denominators hold one positive and the negatives only.

For anchor i with logits s_ij, positives P_i of its class and negatives N_i of the others,

    loss_i = 1 / |P_i| sum over j in P_i of -log[ exp(s_ij) / (exp(s_ij) + sum over n in N_i of exp(s_in)) ]
           = 1 / |P_i| sum over j in P_i of softplus(m_i - s_ij),  m_i = logsumexp over n in N_i of s_in

(Pissas et al., ECCV 2022; this is not SupCon's loss, whose denominator holds all positives.) Anchors are sorted by class,
so the positives of a chunk of rows are a narrow band of columns, and only there is softplus taken. Value and gradients
are made chunk by chunk (see precomputed_gradient.py): memory grows with the number of anchors, not with its square.
"""

import torch
from torch import Tensor
from torch.nn import functional

from semseg_app.training.precomputed_gradient import carry_gradients, wants_gradient

PAIRS_PER_CHUNK = 1 << 20


def class_contrast(
    anchors: Tensor, anchor_labels: Tensor, candidates: Tensor, candidate_labels: Tensor, temperature: float
) -> Tensor:
    """Mean of loss_i over the filled anchors; 0, attached to the graph, when there are none.

    An anchor without positives contributes 0 and stays in the mean. When `candidates` is `anchors`, an anchor is not its
    own positive.

    Args:
        anchors: float32 or float64 `[N, D]`, of unit length.
        anchor_labels: int64 `[N]`; -1 = empty place.
        candidates: `[M, D]`, of unit length.
        candidate_labels: int64 `[M]`; -1 = empty place.
        temperature: tau.
    """
    alone = candidates is anchors
    # One input twice would get two gradients for one tensor; the operator adds them up itself.
    others = anchors.detach() if alone else candidates
    loss, *_ = _class_contrast(
        anchors,
        others,
        anchor_labels,
        candidate_labels,
        temperature,
        alone,
        wants_gradient(anchors),
        wants_gradient(others),
    )
    return loss


@torch.library.custom_op("semseg::class_contrast", mutates_args=())
def _class_contrast(
    anchors: Tensor,
    candidates: Tensor,
    anchor_labels: Tensor,
    candidate_labels: Tensor,
    temperature: float,
    alone: bool,
    anchor_gradient: bool,
    candidate_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> loss, gradient for the anchors, gradient for the candidates; each gradient empty unless it is wanted.

    `alone`: anchors and candidates are the same pixels; no pixel is its own positive, and both gradients are one.
    """
    loss = anchors.new_zeros(())
    gradient = torch.zeros_like(anchors) if anchor_gradient else anchors.new_empty(0)
    other_gradient = torch.zeros_like(candidates) if candidate_gradient else candidates.new_empty(0)
    rows, row_labels = _sorted_by_class(anchor_labels)
    columns, column_labels = _sorted_by_class(candidate_labels)
    if len(rows) == 0 or len(columns) == 0:
        return loss, gradient, other_gradient

    with torch.autocast(anchors.device.type, enabled=False):
        queries, keys = anchors[rows] / temperature, candidates[columns]
        # Columns of each row's class; both label lists are sorted, so one chunk's classes are one range of columns.
        first = torch.searchsorted(column_labels, row_labels)
        last = torch.searchsorted(column_labels, row_labels, right=True)
        step = max(PAIRS_PER_CHUNK // len(keys), 1)
        starts = range(0, len(queries), step)
        bands = zip(first[::step].tolist(), last[step - 1 :: step].tolist() + last[-1:].tolist(), strict=False)
        sorted_gradient = torch.empty_like(queries) if anchor_gradient else queries
        sorted_other = torch.zeros_like(keys) if candidate_gradient or (alone and anchor_gradient) else keys
        for start, (left, right) in zip(starts, bands, strict=True):
            chunk = slice(start, start + step)
            logits = queries[chunk] @ keys.T  # [r, M]
            positive = row_labels[chunk].unsqueeze(1) == column_labels[left:right]  # [r, band]
            close = logits[:, left:right].clone()
            logits[:, left:right].masked_fill_(positive, -torch.inf)
            if alone:
                positive.diagonal(start - left).fill_(False)
            top = logits.amax(dim=1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)  # no negative: -inf
            logits.sub_(top).exp_()
            mass = logits.sum(dim=1, keepdim=True)
            excess = (top + mass.log()).sub(close)  # m_i - s_ij
            share = positive / positive.sum(dim=1, keepdim=True).clamp(min=1)
            loss += (functional.softplus(excess) * share).sum()
            if anchor_gradient or candidate_gradient:
                pull = excess.sigmoid_().mul_(share)  # -dloss/ds_ij of the positives
                logits.mul_(pull.sum(dim=1, keepdim=True) / mass.clamp(min=torch.finfo(mass.dtype).tiny))
                logits[:, left:right] -= pull
                if anchor_gradient:
                    torch.matmul(logits, keys, out=sorted_gradient[chunk])
                if sorted_other is not keys:
                    sorted_other.addmm_(logits.T, queries[chunk])

        scale = 1 / len(queries)
        loss *= scale
        if anchor_gradient:
            sorted_gradient *= scale / temperature
            if alone:
                sorted_gradient.add_(sorted_other, alpha=scale)
            gradient[rows] = sorted_gradient
        if candidate_gradient:
            other_gradient[columns] = sorted_other * scale
    return loss, gradient, other_gradient
