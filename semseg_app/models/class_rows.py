"""Classifiers follow class names: the rows of classes that two label spaces share move to their new places."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semseg_app.model_spec import ModelSpec
from semseg_app.models import build


@dataclass(frozen=True)
class ClassRows:
    """How the classes of a saved network become those of a new one."""

    before: list[str]
    now: list[str]
    axes: dict[str, int]
    """Names of the tensors with one row per class, and the axis that counts the classes."""

    def moved(self, saved: Tensor, fresh: Tensor, axis: int) -> Tensor:
        """`fresh`, with the rows of shared classes from `saved`; `[..., classes now, ...]`."""
        result = fresh.clone()
        for target, name in enumerate(self.now):
            if name in self.before:
                row = saved.select(axis, self.before.index(name))
                result.select(axis, target).copy_(row)
        return result

    def describe(self) -> str:
        """A line for the log: which classes were taken, which start fresh, which were left behind."""
        if self.before == self.now:
            return f"all {len(self.now)} classes are the same"
        new = [name for name in self.now if name not in self.before]
        gone = [name for name in self.before if name not in self.now]
        shared = len(self.now) - len(new)
        line = f"the classifier's rows follow the class names: {shared} of {len(self.now)} classes are taken"
        line += f"; new, from random weights: {', '.join(new)}" if new else ""
        return line + (f"; left behind: {', '.join(gone)}" if gone else "")


def match_classes(spec: ModelSpec, before: Sequence[str], now: Sequence[str]) -> ClassRows:
    """How to move the rows of a network of `spec` from the classes `before` to the classes `now`.

    The tensors with rows of classes are those that change shape when the network is built for one class more.
    """
    with torch.device("meta"):
        one, more = (
            build(spec.model_copy(update={"num_classes": count}), training_heads=False).state_dict() for count in (8, 9)
        )
    axes = {
        name: next(axis for axis, (a, b) in enumerate(zip(tensor.shape, more[name].shape, strict=True)) if a != b)
        for name, tensor in one.items()
        if tensor.shape != more[name].shape
    }
    return ClassRows(list(before), list(now), axes)
