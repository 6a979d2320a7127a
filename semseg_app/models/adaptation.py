"""Training a part of an encoder, or training it in less memory: freezing, LoRA, activation checkpointing.

None of the three changes what a model folder holds: LoRA is merged into the weights that it adapts when the folder is
written (`merged_weights`), so that loading and export know nothing of it.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from semseg_app.errors import UserError
from semseg_app.models.activation_checkpointing import checkpoint_blocks
from semseg_app.models.depths import encoder_depths
from semseg_app.models.network import SegmentationNetwork

ADAPTER = "default"
"""peft's name of a network's only adapter."""


class LoraSection(BaseModel):
    """Low-rank adaptation (Hu et al., 2021): `W + alpha / rank * B A` with W frozen, in the encoder's transformer."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    rank: int = Field(default=8, ge=1)
    """Width of the adapters: more learn more, and weigh more."""
    alpha: float | None = Field(default=None, gt=0)
    """null = rank, so that the factor is 1."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which an input of an adapter is dropped while training."""
    layers: Literal["attention", "all"] = "attention"
    """Which linear layers are adapted: those of the attention, or those of the MLPs, too."""


def adapt(
    network: SegmentationNetwork,
    freeze: Literal["encoder"] | Sequence[int] = (),
    lora: LoraSection | None = None,
    activation_checkpointing: bool = False,
) -> None:
    """Prepare a network for training, in place.

    Args:
        network: with the weights that it starts from.
        freeze: "encoder", or the stages (indices into `Features.stages`) that learn nothing. Frozen parameters get no
            gradient, and frozen batch norms and dropouts stay in eval mode.
        lora: freezes the encoder, and adapts its linear layers. UserError where `peft` is missing, the encoder is no
            transformer, or some adapter would have no effect.
        activation_checkpointing: keep only what enters each block of the encoder, and compute the rest again in the
            backward pass. UserError where an encoder does not allow it.
    """
    if lora is not None:
        if freeze:
            raise UserError("model.freeze: model.lora freezes the encoder already; leave model.freeze out")
        _add_lora(network, lora)
    if freeze:
        _freeze(network, freeze)
    if freeze or lora:
        network.frozen = _without_gradient(network.encoder, "encoder")
        network.train(network.training)
    if activation_checkpointing:
        checkpoint_blocks(network)


def _freeze(network: SegmentationNetwork, freeze: Literal["encoder"] | Sequence[int]) -> None:
    if freeze == "encoder":
        network.encoder.requires_grad_(False)
    else:
        depths = encoder_depths(network)
        count = depths.stages
        for index in freeze:
            if not isinstance(index, int) or not -count <= index < count:
                raise UserError(f"model.freeze: {network.spec.encoder} has stages 0 to {count - 1}, not {index}")
        frozen = {int(index) % count for index in freeze}
        for name, parameter in network.encoder.named_parameters():
            if depths.of[name].stage in frozen:
                parameter.requires_grad_(False)


def _without_gradient(module: nn.Module, name: str) -> list[str]:
    """The largest modules that have parameters, none of which learns."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return [name]
    inside = [_without_gradient(child, f"{name}.{own}") for own, child in module.named_children()]
    return [found for names in inside for found in names]


def _add_lora(network: SegmentationNetwork, lora: LoraSection) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("model.lora needs peft: pip install 'semseg-app[lora]'") from None
    parts = (".attn.",) if lora.layers == "attention" else (".attn.", ".mlp.")
    encoder: Any = network.encoder
    targets = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and any(part in f".{name}" for part in parts)
    ]
    if not targets:
        raise UserError(f"model.lora: {network.spec.encoder} has no attention to adapt; take a transformer, or freeze")
    for module in encoder.modules():
        # timm's Eva has biases of its own for q and v, and by default reads the layer's weight itself.
        if getattr(module, "qkv_bias_separate", None) is False:
            module.qkv_bias_separate = True
    alpha: Any = lora.alpha or lora.rank  # peft says int, and divides it
    config = LoraConfig(r=lora.rank, lora_alpha=alpha, lora_dropout=lora.dropout, target_modules=targets)
    inject_adapter_in_model(config, encoder, adapter_name=ADAPTER)
    _refuse_idle(network, [f"encoder.{name}" for name in targets])


def _refuse_idle(network: SegmentationNetwork, names: list[str]) -> None:
    """UserError where a pass goes past some of these modules: a model may read a layer's weight by itself."""
    called: set[str] = set()
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name)) for name in names
    ]
    training = network.training
    with torch.no_grad():
        device = network.mean.device
        network.eval().encode(torch.zeros(1, 3, 2 * network.deepest_stride, 2 * network.deepest_stride, device=device))
    network.train(training)
    for hook in hooks:
        hook.remove()
    if idle := [name for name in names if name not in called]:
        raise UserError(
            f"model.lora: {network.spec.encoder} goes past {len(idle)} of {len(names)} adapted layers, such as "
            f"{idle[0]}, and they would not learn; take another encoder, or leave model.lora out"
        )


def merged_weights(network: SegmentationNetwork) -> dict[str, Tensor]:
    """The state dict, with what LoRA learned merged into the weights that it adapts: the names of a plain network."""
    weights = dict(network.state_dict())
    if not any(".lora_A." in name for name in weights):
        return weights
    from peft.tuners.lora import LoraLayer

    for name, module in network.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            base = layer.get_base_layer()
            weights = {key: tensor for key, tensor in weights.items() if not key.startswith(f"{name}.")}
            weights |= {f"{name}.{key}": tensor for key, tensor in base.state_dict().items()}
            weights[f"{name}.weight"] = base.weight.detach() + layer.get_delta_weight(ADAPTER).detach()
    return weights
