"""What the loop asks of a training method, and what distillation asks of a distiller.

Both are torch modules: their whole state_dict goes into checkpoints, and only `Method.networks()` into model folders.
A new method or distiller is one file with a config and a class that fill these contracts in, and one row in the table
of its package (training/methods/__init__.py, training/distill/__init__.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from torch import Tensor, nn

from semseg_app.models import SegmentationNetwork
from semseg_app.training.section import Section

if TYPE_CHECKING:
    from accelerate import Accelerator

    from semseg_app.training.data.streams import Batch, ImageDataset, StrongView, UnlabeledBatch
    from semseg_app.training.methods.guardrails import PseudoLabelMonitor
    from semseg_app.training.recipe import Recipe

MapName = Literal["decoder", "logits"] | int
"""A map of a network: an encoder stage (index into `Features.stages`, -1 = the deepest), what the classifier reads, or
its logits."""

Pairs = Mapping[MapName, tuple[Tensor, Tensor]]
"""Map name -> (student's `[B, C_s, h, w]`, teacher's `[B, C_t, h, w]` without gradient), of the same images."""


class Segmenter(Protocol):
    """What can be scored: one of our networks, or a teacher of any kind."""

    training: bool

    def full_logits(self, images: Tensor) -> Tensor:
        """RGB in [0, 1], `[B, 3, H, W]` -> logits `[B, num_classes, H, W]`."""
        ...

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode."""
        ...


class PartConfig(Section):
    """The config of a method or of a distiller: unknown keys are refused, and it checks itself against the recipe."""

    def check(self, recipe: Recipe) -> None:
        """Raise a ValueError, with the fix, where this config does not fit the rest of the recipe."""


class MethodSettings(PartConfig):
    """The config of a method. Subclasses narrow `name` to a Literal, by which a recipe chooses them."""

    name: str = ""
    """The method."""

    def image_label_table(self) -> Path | None:
        """A table of image labels that unlabeled batches shall carry (training/data/image_labels.py), or None."""
        return None

    def pseudo_label_folder(self) -> Path | None:
        """A folder of pseudo labels from which unlabeled images get their labels, or None."""
        return None


class Method(nn.Module, ABC):
    """A training method around one network.

    Random numbers come from torch's global generators, which the loop seeds anew for every batch.
    """

    uses_unlabeled: bool = False
    """Whether the method reads unlabeled images."""
    strong_views: tuple[StrongView, ...] = ()
    """The strong views of each unlabeled image that its batches shall hold."""
    monitor: PseudoLabelMonitor | None = None
    """Watches the pseudo labels; None where a method makes none."""
    teacher_model: Path | None = None
    """The folder or file of a trained teacher, for the lineage."""

    @abstractmethod
    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Named scalar losses, which the loop adds up. `step` counts from 0."""

    @abstractmethod
    def networks(self) -> dict[str, SegmentationNetwork]:
        """What is evaluated and saved, by role; the first is what the method delivers."""

    def prepare(
        self, images: Sequence[ImageDataset], recipe: Recipe, accelerator: Accelerator, say: Callable[[str], None]
    ) -> dict[str, Any]:
        """Runs on every process before the first step, with the images to learn from; returns facts for the report."""
        return {}

    def pseudo_label_parts(self, unlabeled: UnlabeledBatch) -> dict[str, Tensor]:
        """What the pseudo labels of weak views are made of, by name, in the order in which it is computed.

        Class probabilities `[B, C, h, w]` without gradient, each on a grid over the padded images; the last is what is
        learned from. In evaluation mode, for plots. Empty where the method computes no pseudo labels.
        """
        return {}

    def references(self) -> dict[str, Segmenter]:
        """Trained models, by role, that are scored before the first step."""
        return {}

    def clip_gradients(self) -> None:
        """Bound the gradients of the method's own modules; runs before the optimizer, on unscaled gradients."""

    def after_step(self, step: int) -> None:
        """Runs after the optimizer; an EMA teacher follows here."""


class Distiller(nn.Module, ABC):
    """One way to follow a teacher. What it learns or remembers (alignments, queues, tokens) is for training only.

    All of its parameters take part in every step's losses, and the names of its losses begin with its own.
    """

    reads: tuple[MapName, ...]
    """The maps that it compares."""

    @abstractmethod
    def forward(self, pairs: Pairs, labels: Tensor) -> dict[str, Tensor]:
        """Named, weighted, scalar losses.

        Args:
            pairs: what `reads` names, of student and teacher, on one grid.
            labels: int `[N, H, W]`, 255 = ignore, of the first N images; the images behind them are unlabeled. Maps
                and labels cover the same pixels.
        """

    def in_teacher_space(self, student: Tensor) -> Tensor:
        """The student's map `[B, C_s, h, w]` as this distiller compares it with the teacher's, in the teacher's
        channels; unchanged where it has no alignment."""
        return student

    def clip_gradients(self) -> None:
        """Bound the gradients of this distiller's own parameters; runs before the optimizer."""

    def after_step(self) -> None:
        """Runs after the optimizer."""
