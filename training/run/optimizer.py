"""The optimizer of a recipe."""

from typing import Any

import torch
from torch import nn

from semseg_app.models import SegmentationNetwork
from semseg_app.models.depths import encoder_depths
from semseg_app.training.recipe import OptimizerSection


def make_optimizer(section: OptimizerSection, method: nn.Module) -> torch.optim.Optimizer:
    """Over every parameter that learns: the encoder at its own rates, norms and position tables without decay if asked.

    Each group keeps the rate that the schedule starts from in `base_lr`.
    """
    scales = _layer_scales(section.layer_decay, method) if section.layer_decay < 1 else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = section.lr * scales.get(name, 1.0) if ".encoder." in name else section.lr * section.head_lr_factor
        spared = not section.decay_norms and (parameter.ndim < 2 or "pos_embed" in name or "position_bias" in name)
        groups.setdefault((lr, 0.0 if spared else section.weight_decay), []).append(parameter)
    arguments: list[dict[str, Any]] = [
        {"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
    if section.name == "sgd":
        return torch.optim.SGD(arguments, momentum=section.momentum, fused=True)
    if section.name == "adam":
        return torch.optim.Adam(arguments, fused=True)
    return torch.optim.AdamW(arguments, fused=True)


def _layer_scales(decay: float, method: nn.Module) -> dict[str, float]:
    """Layer-wise learning-rate decay, as in BEiT (Bao et al., 2022): the factor for each parameter of every encoder.

    Each layer has `decay` times the rate of the layer above it; `encoder_depths` says what the layers are.
    """
    scales: dict[str, float] = {}
    for prefix, module in method.named_modules():
        if isinstance(module, SegmentationNetwork) and any(part.requires_grad for part in module.encoder.parameters()):
            depths = encoder_depths(module)
            for name, depth in depths.of.items():
                scales[f"{prefix}.encoder.{name}"] = decay ** (depths.layers - 1 - depth.layer)
    return scales
