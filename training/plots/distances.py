"""Fine-grained distances between student and teacher: of every pixel, one for each group of channels.

As in Fan et al., "Augmentation-Free Dense Contrastive Knowledge Distillation", NeurIPS 2023, supplement, figures 3 and
4. Its 131 million pairs of 2,000 training crops are 65,536 for each: 64x64 pixels of a crop of 512 at stride 8, times
16 groups, so they are taken before the pooling that the loss has. Which distance is meant is not said there.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semseg_app.data.dataset import Sample
from semseg_app.errors import UserError
from semseg_app.plots.feature_points import as_input
from semseg_app.training.contracts import Distiller, MapName
from semseg_app.training.data.randomness import derive
from semseg_app.training.distill.omni_contrast import nearest_divisor
from semseg_app.training.losses.pseudo_label import at_least_float32
from semseg_app.training.methods.distillation import Distillation
from semseg_app.training.run.trained import Trained

GROUPS = 16
SAMPLE = 10_000
"""Distances that a plot shows."""
Norm = Literal["l1", "l2"]


class Compared(NamedTuple):
    """What of a run is compared with its teacher."""

    name: MapName
    """The map."""
    distiller: Distiller | None
    """Brings the student's map into the teacher's channels; None = they are the same."""
    section: str
    """The distiller's name in the recipe; empty without one."""


class Distances(NamedTuple):
    """Distances over all photos of a list."""

    pairs: int
    mean: float
    deviation: float
    smallest: float
    largest: float
    sample: np.ndarray
    """float32, SAMPLE of them, each equally likely; all where they are fewer."""

    def to_json(self) -> dict[str, Any]:
        """Statistics over all pairs; median, quartiles and the values shown, over the sample."""
        low, middle, high = np.percentile(self.sample, [25, 50, 75]).tolist()
        return {
            "pairs": self.pairs,
            "mean": self.mean,
            "standard_deviation": self.deviation,
            "smallest": self.smallest,
            "largest": self.largest,
            "quartiles": [low, middle, high],
            "sample": [float(f"{value:.5g}") for value in self.sample],
        }


def fine_grained(student: Tensor, teacher: Tensor, groups: int, norm: Norm) -> Tensor:
    """Distances of two maps `[B, C, h, w]`, one for each pixel and group of C / groups channels: `[B, groups, h, w]`.

    Groups are contiguous, as in the loss. ValueError where `groups` does not divide C.
    """
    batch, channels, height, width = student.shape
    if channels % groups:
        raise ValueError(
            f"{channels} channels: {groups} groups do not divide them; use {nearest_divisor(channels, groups)}"
        )
    difference = at_least_float32(student) - at_least_float32(teacher)
    parts = difference.reshape(batch, groups, channels // groups, height, width)
    return torch.linalg.vector_norm(parts, ord=1 if norm == "l1" else 2, dim=2)


def compared(trained: Trained, run: Path, logits: bool) -> Compared:
    """The first map that a distiller of the run compares in the teacher's channels; with `logits`, the class scores.

    UserError where the run has no teacher, or no such map.
    """
    method = trained.method
    if not isinstance(method, Distillation):
        raise UserError(f"{run}: {trained.recipe.method.name} has no teacher; name runs of method.name=distillation")
    if logits:
        return Compared("logits", None, "")
    teacher = method.teacher.network
    if teacher is not None:
        for section, distiller in zip(method.distillers, method.each(), strict=True):
            for name in distiller.reads:
                if name == "logits":
                    continue
                channels = method.network.decoder_channels if name == "decoder" else method.network.stage_channels[name]
                taught = teacher.decoder_channels if name == "decoder" else teacher.stage_channels[name]
                if distiller.in_teacher_space(torch.zeros(1, channels, 1, 1)).shape[1] == taught:
                    return Compared(name, distiller, section)
    raise UserError(
        f"{run}: none of its distillers ({', '.join(method.distillers)}) brings features into the teacher's channels; "
        "take --map logits, or runs with af_dcd, mgd or fitnet"
    )


def distances(
    trained: Trained,
    what: Compared,
    samples: Iterable[Sample],
    groups: int,
    norm: Norm = "l1",
    seed: int = 0,
    device: str = "cpu",
) -> Distances:
    """Distances over whole photos, as the loss sees the maps: a generator's hidden pixels are drawn anew for each.

    Args:
        trained: a distillation run.
        what: from `compared`.
        samples: photos; labels are not read.
        groups: of channels.
        norm: l1, as the released code contrasts, or l2.
        seed: of hidden pixels and of the sample.
        device: where the networks run.

    Raises:
        UserError: `groups` does not divide the channels, or there are no photos.
    """
    method = trained.method.to(device)
    assert isinstance(method, Distillation)
    random = np.random.default_rng(seed)
    keys, kept = np.empty(0), np.empty(0, np.float32)
    count, total, squares, smallest, largest = 0, 0.0, 0.0, float("inf"), 0.0
    for number, sample in enumerate(samples):
        images = as_input(trained.data.read_image(sample), device)
        torch.manual_seed(derive(seed, "plot/distances", number))
        with torch.inference_mode():
            student, teacher = method.pairs(
                images, method.network.features(images), method.teacher.maps(images, [what.name])
            )[what.name]
            if what.distiller is not None:
                student = what.distiller.in_teacher_space(student)
            try:
                values = fine_grained(student, teacher, groups, norm).flatten().cpu().numpy()
            except ValueError as error:
                raise UserError(f"--groups: {error}") from None
        exact = values.astype(np.float64)
        count, total, squares = count + len(exact), total + exact.sum(), squares + np.square(exact).sum()
        smallest, largest = min(smallest, float(values.min())), max(largest, float(values.max()))
        # The pairs with the lowest of uniform random keys are an even sample of all that have come so far.
        keys = np.concatenate([keys, random.random(len(values))])
        kept = np.concatenate([kept, values])
        if len(keys) > SAMPLE:
            chosen = np.argpartition(keys, SAMPLE)[:SAMPLE]
            keys, kept = keys[chosen], kept[chosen]
    if not count:
        raise UserError(f"{trained.data.root}: no photos to compare on; choose another --split")
    mean = total / count
    deviation = float(np.sqrt(max(squares / count - mean**2, 0.0)))
    return Distances(count, float(mean), deviation, smallest, largest, kept[np.argsort(keys)])
