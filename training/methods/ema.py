"""The teacher as an exponential moving average of the student (Tarvainen & Valpola, "Mean teachers", 2017)."""

import copy
from collections.abc import Iterator
from typing import Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from semseg_app.models import SegmentationNetwork
from semseg_app.training.section import Section

Network = TypeVar("Network", bound=nn.Module)


class EmaConfig(Section):
    """How slowly the teacher follows."""

    momentum: float = Field(default=0.999, ge=0, le=1)
    """What the teacher keeps of itself in each step; nearer to 1 is slower and steadier."""
    warm_up: bool = True
    """Follow faster in the first steps: min(1 - 1 / (step + 1), momentum); false is S4Former's constant momentum."""
    copy_steps: int = Field(default=0, ge=0)
    """For so many first steps the teacher is the student itself; AugSeg's first epoch."""

    def decay(self, step: int) -> float:
        """The weight that the teacher keeps after the optimizer's `step` (from 0)."""
        return 0.0 if step < self.copy_steps else ema_decay(step, self.momentum, self.warm_up)


class EmaTeacher(nn.Module):
    """A copy of the student that follows it; always in eval mode, never with gradients."""

    def __init__(self, student: SegmentationNetwork, config: EmaConfig):
        super().__init__()
        self.config = config
        self.network = make_teacher(student)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever the method around it is put into."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` -> float32 logits `[B, C, h, w]` on the network's own grid."""
        logits: Tensor = self.network(images)
        return logits.float()

    def follow(self, student: SegmentationNetwork, step: int) -> None:
        """After the optimizer's step number `step` (from 0)."""
        update_ema(self.network, student, self.config.decay(step))


def make_teacher(student: Network) -> Network:
    """A copy of the student, bit for bit, in eval mode and without gradients."""
    return copy.deepcopy(student).eval().requires_grad_(False)


def ema_decay(step: int, momentum: float, warm_up: bool = True) -> float:
    """The weight that the teacher keeps at `step` (from 0): `min(1 - 1 / (step + 1), momentum)`.

    The warm-up forgets the random start: at step 0 the teacher is the student, until 1 / (1 - momentum) steps it is the
    plain mean of all students (AugSeg, UniMatch V2). Without it the decay is constant (S4Former).
    """
    return min(1 - 1 / (step + 1), momentum) if warm_up else momentum


@torch.no_grad()
def update_ema(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """teacher <- decay * teacher + (1 - decay) * student, in place.

    Parameters and floating-point buffers (batch-norm statistics) are averaged, integer buffers (batch counters) copied.
    A decay of 0 copies and a decay of 1 freezes exactly, bit for bit. The student may be wrapped (DDP): order, not
    names, pairs the tensors. ValueError when the two differ in structure.
    """
    pairs = list(zip(_tensors(teacher), _tensors(student), strict=True))
    averaged = [pair for pair in pairs if pair[0].is_floating_point()]
    counters = [pair for pair in pairs if not pair[0].is_floating_point()]
    if averaged:
        torch._foreach_lerp_([mine for mine, _ in averaged], [theirs for _, theirs in averaged], 1 - decay)
    if counters and decay < 1:
        torch._foreach_copy_([mine for mine, _ in counters], [theirs for _, theirs in counters])


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()
