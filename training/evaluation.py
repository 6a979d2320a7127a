"""Scores of a network while it trains: whole images, fp32, every image counted once by however many processes."""

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from semseg_app.metrics import ConfusionMatrix
from semseg_app.models import SegmentationNetwork
from semseg_app.training.data import Pool

BATCH = 4


def evaluate_network(network: SegmentationNetwork, pool: Pool, accelerator: Accelerator) -> ConfusionMatrix:
    """Confusion matrix over a labeled pool; the same on every process."""
    matrix = ConfusionMatrix(network.spec.num_classes)
    was_training = network.training
    network.eval()
    mine = range(accelerator.process_index, len(pool), accelerator.num_processes)
    with torch.inference_mode():
        for images, labels in _equal_sized(pool, mine):
            pixels = images.to(accelerator.device).float().div_(255)
            predicted = network.full_logits(pixels).argmax(dim=1).to(torch.uint8).cpu().numpy()
            matrix.add(predicted, labels)
    network.train(was_training)
    counts = torch.from_numpy(matrix.counts).to(accelerator.device)
    matrix.counts = np.asarray(accelerator.reduce(counts, "sum").cpu())
    return matrix


def _equal_sized(pool: Pool, indices: range) -> Iterator[tuple[Tensor, np.ndarray]]:
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


def _stack(group: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, np.ndarray]:
    return torch.stack([image for image, _ in group]), torch.stack([label for _, label in group]).numpy()
