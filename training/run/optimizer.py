"""The optimizer of a recipe."""

from typing import Any

import torch
from torch import nn

from semseg_app.training.recipe import OptimizerSection


def make_optimizer(section: OptimizerSection, method: nn.Module) -> torch.optim.Optimizer:
    """Over every parameter that learns: the encoder at its own rate, norms and position tables without decay if asked.

    Each group keeps the rate that the schedule starts from in `base_lr`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = section.lr if ".encoder." in name else section.lr * section.head_lr_factor
        spared = not section.decay_norms and (parameter.ndim < 2 or "pos_embed" in name or "position_bias" in name)
        groups.setdefault((lr, 0.0 if spared else section.weight_decay), []).append(parameter)
    arguments: list[dict[str, Any]] = [
        {"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
    if section.name == "sgd":
        return torch.optim.SGD(arguments, momentum=section.momentum, fused=True)
    return torch.optim.AdamW(arguments, fused=True)
