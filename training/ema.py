"""The teacher as an exponential moving average of the student (Tarvainen & Valpola, "Mean teachers", 2017)."""

import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


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
