"""Scores of a network while it trains: whole images, fp32, every image counted once by however many processes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from semseg_app.labels import IGNORE
from semseg_app.metrics.scores import WHILE_TRAINING, Scorer, Scores
from semseg_app.models import SegmentationNetwork
from semseg_app.training.data.streams import Pool

BATCH = 4


class Evaluation(NamedTuple):
    """What a network's predictions are worth."""

    scores: Scores
    pseudo_labels: dict[str, float]
    """`coverage` and `agreement`: the share of labeled pixels that reach the threshold, and how many of those are
    right (left out where none does). A held-out measure of what unlabeled images are taught. Empty without a
    threshold."""


def evaluate_network(
    network: SegmentationNetwork, pool: Pool, accelerator: Accelerator, threshold: float | None = None
) -> Evaluation:
    """Scores over a labeled pool; the same on every process. `threshold`: confidence of a pseudo label."""
    scorer = Scorer(network.spec.num_classes, WHILE_TRAINING)
    confident = torch.zeros(3, dtype=torch.int64)  # labeled pixels, confident ones of them, right ones of those
    was_training = network.training
    network.eval()
    mine = range(accelerator.process_index, len(pool), accelerator.num_processes)
    with torch.inference_mode():
        for images, labels in _equal_sized(pool, mine):
            pixels = images.to(accelerator.device).float().div_(255)
            logits = network.full_logits(pixels)
            predicted = logits.argmax(dim=1).to(torch.uint8).cpu()
            scorer.add(predicted.numpy(), labels.numpy())
            if threshold is not None:
                labeled = labels != IGNORE
                sure = labeled & (logits.softmax(dim=1).amax(dim=1) >= threshold).cpu()
                confident += torch.stack([labeled.sum(), sure.sum(), (sure & (predicted == labels)).sum()])
    network.train(was_training)
    counts = [torch.from_numpy(array).to(accelerator.device) for array in scorer.counts]
    scorer.set_counts([np.asarray(accelerator.reduce(array, "sum").cpu()) for array in counts])
    scores = scorer.result()
    labeled, sure, right = accelerator.reduce(confident.to(accelerator.device), "sum").tolist()
    if not labeled:
        return Evaluation(scores, {})
    return Evaluation(scores, {"coverage": sure / labeled} | ({"agreement": right / sure} if sure else {}))


def _equal_sized(pool: Pool, indices: range) -> Iterator[tuple[Tensor, Tensor]]:
    """Consecutive images of one size, a few at a time: uint8 `[n, 3, H, W]` and `[n, H, W]`."""
    group: list[tuple[Tensor, Tensor]] = []
    for index in indices:
        image, label = pool[index]
        assert label is not None
        if group and (group[0][0].shape != image.shape or len(group) == BATCH):
            yield _stack(group)
            group = []
        group.append((image, label))
    if group:
        yield _stack(group)


def _stack(group: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([image for image, _ in group]), torch.stack([label for _, label in group])
