"""Whether pseudo labels are worth following, watched while a method trains.

Numbers per log interval: coverage (the share of unlabeled pixels that are confident enough to be learned from), the
same per class, each class's share of the confident pixels, and drift (how far the classes that the teacher predicts are
from those of the labeled images).
At evaluations the teacher's confident labels are also compared with the held-out ones (training/evaluation.py).
Coverage that stays near zero and drift that stays high give warnings; predictions collapsed to one class end the
run.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from semseg_app.errors import UserError
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.losses.pseudo_label import sure_pixels
from semseg_app.training.section import Section


class GuardrailConfig(Section):
    """When to speak up, and when to stop."""

    low_coverage: float = Field(default=0.01, ge=0, le=1)
    """Warn when a smaller share of the unlabeled pixels is learned from."""
    collapse: float = Field(default=0.99, gt=0, le=1)
    """Stop when one class has a larger share of the predictions, unless it is as common in the labeled images."""
    high_drift: float = Field(default=0.5, ge=0, le=1)
    """Warn when the shares of the predicted classes are further from those of the labeled images: 0 is equal, 1
    disjoint."""
    patience: int = Field(default=200, ge=1)
    """Steps in a row after which a run warns or stops."""


class PseudoLabelMonitor:
    """Counts pseudo labels between two log lines. No module: DDP would overwrite each rank's counts with rank 0's.

    Args:
        config: limits.
        labeled: where the classes' true shares come from.
        threshold: confidence from which a pseudo label is learned from.
        surest_share: which share of each class is learned from instead; see `sure_pixels`.
    """

    def __init__(
        self, config: GuardrailConfig, labeled: ImageDataset, threshold: float, surest_share: float | None = None
    ):
        self.config = config
        self.threshold = threshold
        self.surest_share = surest_share
        self.classes = labeled.data.info.classes
        counts = labeled.class_counts()
        self.labeled_share = counts / counts.sum().clamp(min=1)
        self._counts: Tensor | None = None  # [2, C]: all predictions, confident ones
        self._low_steps = self._collapsed_steps = self._drifted_steps = 0

    @torch.no_grad()
    def observe(self, labels: Tensor, confidence: Tensor, valid: Tensor) -> None:
        """Count a batch: int `[B, h, w]`, float `[B, h, w]`, bool `[B, h, w]` (False where the crop was padded)."""
        classes = len(self.classes)
        sure = sure_pixels(labels, confidence, valid, self.threshold, self.surest_share)
        kind = torch.where(sure, labels + classes, labels)  # confident ones in a second row
        kind = torch.where(valid, kind, 2 * classes)
        counts = torch.zeros(2 * classes + 1, dtype=torch.int64, device=labels.device)
        counts.scatter_add_(0, kind.flatten(), torch.ones_like(kind).flatten())
        pairs = counts[:-1].view(2, classes)
        self._counts = pairs if self._counts is None else self._counts.to(pairs.device) + pairs

    def take(self) -> Tensor:
        """int64 `[2, C]`: predictions of each class below and above the threshold since the last call."""
        counts = self._counts if self._counts is not None else torch.zeros(2, len(self.classes), dtype=torch.int64)
        self._counts = None
        return counts

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: this process's counts since the last `take`, and how long each limit is passed."""
        counts = self._counts if self._counts is not None else torch.zeros(2, len(self.classes), dtype=torch.int64)
        return {
            "counts": counts,
            "low": self._low_steps,
            "collapsed": self._collapsed_steps,
            "drifted": self._drifted_steps,
        }

    def restore(self, state: dict[str, Any], with_counts: bool) -> None:
        """Go on from `state`, whose counts are the sum over processes: one of them takes them, `with_counts`."""
        self._counts = None
        if with_counts:
            self._counts = state["counts"]
        self._low_steps, self._collapsed_steps = state["low"], state["collapsed"]
        self._drifted_steps = state["drifted"]

    def judge(self, counts: Tensor, steps: int, step: int) -> tuple[dict[str, Any], list[str]]:
        """What `take` gave, summed over ranks, `steps` after the last call -> (entry for the log, warnings).

        UserError when the predictions have collapsed.
        """
        counts = counts.cpu()
        predicted, confident = counts.sum(dim=0), counts[1]
        if not predicted.sum():
            return {}, []
        coverage = float(confident.sum() / predicted.sum())
        share = predicted / predicted.sum()
        drift = float((share - self.labeled_share).abs().sum() / 2)
        entry = {
            "coverage": round(coverage, 5),
            "drift": round(drift, 5),
            "coverage_by_class": {
                name: round(float(sure / whole), 5) if whole else None
                for name, sure, whole in zip(self.classes, confident, predicted, strict=True)
            },
            "share_of_sure": {
                name: round(float(sure / confident.sum().clamp(min=1)), 5)
                for name, sure in zip(self.classes, confident, strict=True)
            },
        }
        largest = int(share.argmax())
        common = float(self.labeled_share[largest])
        collapsed = float(share[largest]) > self.config.collapse and common < self.config.collapse
        self._collapsed_steps = self._collapsed_steps + steps if collapsed else 0
        if self._collapsed_steps >= self.config.patience:
            raise UserError(
                f"step {step}: the pseudo labels have collapsed: {100 * float(share[largest]):.1f} % of the "
                f"unlabeled pixels are predicted as {self.classes[largest]} ({100 * common:.1f} % of the labeled ones) "
                f"for {self._collapsed_steps} steps; lower optimizer.lr, set method.ramp_up, or use pretrained weights"
            )
        warnings = []
        self._low_steps = self._low_steps + steps if coverage < self.config.low_coverage else 0
        if self._low_steps >= self.config.patience:
            self._low_steps = 0
            warnings.append(
                f"only {100 * coverage:.2f} % of the unlabeled pixels reach the confidence of {self.threshold}: the "
                "unlabeled images teach next to nothing; lower method.threshold, or train longer on the labeled ones "
                "first"
            )
        self._drifted_steps = self._drifted_steps + steps if drift > self.config.high_drift else 0
        if self._drifted_steps >= self.config.patience:
            self._drifted_steps = 0
            most = int((share - self.labeled_share).argmax())
            true = float(self.labeled_share[most])
            warnings.append(
                f"the pseudo labels have drifted by {drift:.2f}: {100 * float(share[most]):.0f} % of the unlabeled "
                f"pixels are predicted as {self.classes[most]} ({100 * true:.0f} % of the labeled ones); take "
                "a method with an EMA teacher, raise method.threshold, or lower optimizer.lr"
            )
        return entry, warnings
