"""Mixing whole batches: CutMix in its published forms, ClassMix, AugSeg's adaptive CutMix.

Every form makes a bool mask `[B, H, W]` (True = take the partner's pixel); one function, `paste`, then applies it to
everything that belongs to a pixel. Random numbers come from the generator that is passed, on the generator's device.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from semseg_app.labels import IGNORE
from semseg_app.training.losses.pseudo_label import at_least_float32, resize_mask

BOX_PROPOSALS = 256  # at the largest area about 1 of 14 lies inside: none in 256 happens once in 10^8 boxes


class MixBatch(NamedTuple):
    """Images and all that is known of their pixels. Ignore (255 in `labels`), `pad` and `cut` never merge."""

    images: Tensor
    """float `[B, 3, H, W]`."""
    labels: Tensor
    """int `[B, H, W]`, pseudo or true."""
    confidence: Tensor
    """float `[B, H, W]`; 1 for true labels."""
    pad: Tensor
    """bool `[B, H, W]`, outside the photo."""
    cut: Tensor
    """bool `[B, H, W]`, removed by CutOut."""
    teacher_logits: Tensor | None = None
    """`[B, C, h, w]` on any grid, where a loss needs them mixed too."""

    @property
    def valid(self) -> Tensor:
        """bool `[B, H, W]`: neither pad nor cut."""
        return ~(self.pad | self.cut)


def partners(batch: MixBatch) -> MixBatch:
    """The same batch in reverse order: what each image is mixed with. A copy, so mixing cannot feed on itself.

    In a batch of odd size the middle image is its own partner.
    """
    return _pick(batch, torch.arange(len(batch.images), device=batch.images.device).flip(0))


def next_partners(batch: MixBatch) -> MixBatch:
    """Each image's partner is the next of the batch (S4Former); the last one's is the first."""
    return _pick(batch, torch.arange(len(batch.images), device=batch.images.device).roll(-1))


def paste(own: MixBatch, other: MixBatch, mask: Tensor) -> MixBatch:
    """Where `mask [B, H, W]` is True everything comes from `other`, elsewhere from `own`. A new batch.

    Teacher logits take the mask at the centers of their own pixels. ValueError when only one of the two has any.
    """
    mask = mask.to(own.images.device, non_blocking=True)
    logits = None
    if own.teacher_logits is not None and other.teacher_logits is not None:
        height, width = own.teacher_logits.shape[2:]
        grid = resize_mask(mask, height, width).unsqueeze(1)
        logits = torch.where(grid, other.teacher_logits, own.teacher_logits)
    elif own.teacher_logits is not other.teacher_logits:
        raise ValueError("only one of the two batches has teacher logits; give both theirs, or take them off")
    return MixBatch(
        torch.where(mask.unsqueeze(1), other.images, own.images),
        torch.where(mask, other.labels, own.labels),
        torch.where(mask, other.confidence, own.confidence),
        torch.where(mask, other.pad, own.pad),
        torch.where(mask, other.cut, own.cut),
        logits,
    )


Mix = Literal["none", "half", "unimatch", "french", "class"]
"""S4Former's, FixMatch's and UniMatch's, French et al.'s CutMix; ClassMix."""


def mix(kind: Mix, own: MixBatch, num_classes: int, probability: float = 0.5) -> MixBatch:
    """Every image mixed with its partner: the next one for `half`, as published, and else that of the reversed batch.

    Draws from torch's global CPU generator, which the loop seeds anew for every batch.
    """
    if kind == "none":
        return own
    random = torch.default_generator
    count, height, width = own.labels.shape
    if kind == "half":
        return paste(own, next_partners(own), half_boxes(count, height, width, random, probability))
    other = partners(own)
    if kind == "unimatch":
        mask = unimatch_boxes(count, height, width, random, probability)
    elif kind == "french":
        mask = french_boxes(count, height, width, random)
    else:
        chosen = (_uniform(random, count, 1, 1) < probability).to(own.labels.device)
        mask = class_mix(other.labels, num_classes, random) & chosen
    return paste(own, other, mask)


def unimatch_boxes(batch: int, height: int, width: int, random: Generator, probability: float = 0.5) -> Tensor:
    """FixMatch's and UniMatch's CutMix: bool `[batch, height, width]`.

    Each image by itself with `probability`: area 0.02 to 0.4 of the image, height / width 0.3 to 1/0.3, shape and place
    drawn anew until the box lies inside (here: the first of many proposals that does).
    """
    area = (0.02 + 0.38 * _uniform(random, batch, 1)) * height * width
    aspect = 0.3 + (1 / 0.3 - 0.3) * _uniform(random, batch, BOX_PROPOSALS)
    tall, wide = (area * aspect).sqrt().long(), (area / aspect).sqrt().long()  # [batch, proposals]
    top = (_uniform(random, batch, BOX_PROPOSALS) * height).long()
    left = (_uniform(random, batch, BOX_PROPOSALS) * width).long()
    inside = (top + tall <= height) & (left + wide <= width)
    first = inside.byte().argmax(dim=1, keepdim=True)
    mixed = (_uniform(random, batch, 1) < probability) & inside.gather(1, first)
    top, left, tall, wide = (part.gather(1, first) for part in (top, left, tall, wide))
    return _box_mask(top, left, tall, wide, height, width) & mixed.unsqueeze(2)


def half_boxes(batch: int, height: int, width: int, random: Generator, probability: float = 0.5) -> Tensor:
    """S4Former's CutMix: one coin for the whole batch; boxes of half the area, width from W/2 + 1 to W - 1."""
    wide = width // 2 + 1 + _integers(random, max(width - width // 2 - 1, 1), batch)
    wide = wide.clamp(max=width)
    tall = (height * width / 2 / wide).round().long()
    mixed = _uniform(random, 1, 1, 1) < probability
    return _placed_boxes(tall, wide, height, width, random) & mixed


def french_boxes(batch: int, height: int, width: int, random: Generator, area: float = 0.5) -> Tensor:
    """CutMix of French et al. (2020): boxes of a fixed share of the area, log-uniform aspect, anywhere inside."""
    share = area ** _uniform(random, batch, 1)  # of the height, from `area` to 1
    tall, wide = (share * height).round().long(), (area / share * width).round().long()
    return _placed_boxes(tall, wide, height, width, random)


def beta_boxes(batch: int, height: int, width: int, first: int, second: int, random: Generator) -> Tensor:
    """AugSeg's CutMix boxes: bool `[batch, height, width]`, sides sqrt(1 - lambda) of the image's.

    As its code draws them (augs_ALIA.py): one lambda ~ Beta(first, second) for the whole batch; centers anywhere but in
    the first eighth of the rows and of the columns; boxes are clipped at the border. So the mean box is a fifth to a
    third smaller than the 1 - lambda of CutMix (Yun et al., 2019).
    """
    # Beta from two gamma variables, and those, for whole shapes, from sums of exponentials.
    draws = torch.empty(first + second, dtype=torch.float64, device=random.device).exponential_(generator=random)
    side = (draws[first:].sum() / draws.sum()).sqrt()
    rows, columns = (
        (sides // 8 + _integers(random, sides - sides // 8, batch), (side * sides).long() // 2)
        for sides in (height, width)
    )
    top, left = rows[0] - rows[1], columns[0] - columns[1]
    return _box_mask(top, left, 2 * rows[1], 2 * columns[1], height, width)


def class_mix(labels: Tensor, num_classes: int, random: Generator) -> Tensor:
    """ClassMix (Olsson et al., 2021): True on half of the classes (rounded down) that each partner shows.

    Args:
        labels: int `[B, H, W]` of the partners; 255 is never pasted.
        num_classes: C.
        random: source of randomness.
    """
    flat = torch.where(labels == IGNORE, num_classes, labels).long().flatten(1)
    seen = torch.zeros(len(flat), num_classes + 1, dtype=torch.bool, device=labels.device).scatter_(1, flat, True)
    seen[:, num_classes] = False
    order = _uniform(random, len(flat), num_classes + 1).to(labels.device)
    rank = order.masked_fill(~seen, 2.0).argsort(dim=1).argsort(dim=1)  # among the classes seen
    chosen = seen & (rank < seen.sum(dim=1, keepdim=True) // 2)
    return chosen.gather(1, flat).view(labels.shape)


def certainty(logits: Tensor) -> Tensor:
    """AugSeg's score of each image, `[B, K, h, w]` -> `[B]`: mean over pixels of (1 - entropy / ln K) * largest p."""
    log_probability = at_least_float32(logits.detach()).log_softmax(dim=1)
    probability = log_probability.exp()
    entropy = -(probability * log_probability).sum(dim=1)
    certain = 1 - entropy / math.log(logits.shape[1])
    return (certain * probability.amax(dim=1)).mean(dim=(1, 2))


def adaptive_cutmix(unlabeled: MixBatch, labeled: MixBatch, scores: Tensor, random: Generator) -> MixBatch:
    """AugSeg's CutMix (Zhao et al., CVPR 2023, section 3.3): the less sure an image, the more it gets true labels.

    With probability 1 - score a box of a labeled image goes into a copy (lambda ~ Beta(8, 2)); then a box of another
    image's copy goes into each unlabeled image (lambda ~ Beta(4, 4)). One permutation of the batch says which labeled
    image and which copy; it may leave an image its own.

    Args:
        unlabeled: `[B, ...]`.
        labeled: crops of the same size, any number, with confidence 1.
        scores: `[B]` from `certainty`.
        random: source of randomness.
    """
    count, height, width = unlabeled.labels.shape
    order = torch.randperm(count, generator=random, device=random.device).to(unlabeled.images.device)
    helped = (_uniform(random, count, 1, 1).to(scores.device) >= scores.view(-1, 1, 1)).to(unlabeled.images.device)
    boxes = beta_boxes(count, height, width, 8, 2, random).to(unlabeled.images.device)
    copies = paste(unlabeled, _pick(labeled, order % len(labeled.images)), boxes & helped)
    return paste(unlabeled, _pick(copies, order), beta_boxes(count, height, width, 4, 4, random))


def _pick(batch: MixBatch, index: Tensor) -> MixBatch:
    """Images by index, with all that belongs to them, as copies."""
    logits = None if batch.teacher_logits is None else batch.teacher_logits[index]
    images, labels, confidence, pad, cut = (one[index] for one in batch[:5])
    return MixBatch(images, labels, confidence, pad, cut, logits)


def _placed_boxes(tall: Tensor, wide: Tensor, height: int, width: int, random: Generator) -> Tensor:
    """Boxes of given sides `[B, 1]`, everywhere inside the image with equal probability -> mask."""
    top = (_uniform(random, len(tall), 1) * (height - tall + 1)).long().minimum(height - tall)
    left = (_uniform(random, len(wide), 1) * (width - wide + 1)).long().minimum(width - wide)
    return _box_mask(top, left, tall, wide, height, width)


def _box_mask(top: Tensor, left: Tensor, tall: Tensor, wide: Tensor, height: int, width: int) -> Tensor:
    """Corners and sides `[B, 1]` in pixels -> bool `[B, height, width]`, True inside. A side of 0 is an empty box."""
    row, column = torch.arange(height, device=top.device), torch.arange(width, device=top.device)
    rows = (row >= top) & (row < top + tall)  # [B, height]
    columns = (column >= left) & (column < left + wide)
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def _uniform(random: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=random, device=random.device, dtype=torch.float64)


def _integers(random: Generator, stop: int, count: int) -> Tensor:
    """int64 `[count, 1]` from 0 to stop - 1."""
    return torch.randint(stop, (count, 1), generator=random, device=random.device)
