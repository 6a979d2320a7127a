"""Activation checkpointing: a block keeps what enters it, and is computed again in the backward pass.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, by way of `torch.utils.checkpoint`. The results are
those of plain training, dropout and batch statistics included.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from semseg_app.errors import UserError
from semseg_app.models.network import SegmentationNetwork


class Checkpointed:
    """Mixed into the class of a block, before it. Names of parameters stay, and copies of the block behave alike."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the block gives."""
        plain = super().forward  # type: ignore[misc]
        assert isinstance(self, nn.Module)
        if not (self.training and torch.is_grad_enabled()):
            return plain(*inputs, **options)
        if not any(isinstance(module, _BatchNorm) for module in self.modules()):
            return checkpoint(plain, *inputs, use_reentrant=False, **options)

        def contexts() -> Any:
            return nullcontext(), _counted_once(self)

        return checkpoint(plain, *inputs, use_reentrant=False, context_fn=contexts, **options)


def checkpoint_blocks(network: SegmentationNetwork) -> None:
    """Checkpoint every block of the encoder, in place. UserError for an encoder whose blocks are not run as such."""
    blocks = list(_blocks(network.encoder))
    called: set[nn.Module] = set()
    hooks = [block.register_forward_hook(lambda block, *_: called.add(block)) for block in blocks]
    training = network.training
    with torch.no_grad():
        device = network.mean.device
        network.eval().encode(torch.zeros(1, 3, 2 * network.deepest_stride, 2 * network.deepest_stride, device=device))
    network.train(training)
    for hook in hooks:
        hook.remove()
    if not blocks or not called.issuperset(blocks):
        raise UserError(
            f"model.activation_checkpointing: the blocks of {network.spec.encoder} cannot be computed again one by "
            "one; leave it out, or take another encoder"
        )
    for block in blocks:
        kind = type(block)
        block.__class__ = type(f"Checkpointed{kind.__name__}", (Checkpointed, kind), {})


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the module's lists that are made of layers, but no lists themselves."""
    lists = nn.Sequential | nn.ModuleList
    for child in module.children():
        composed = any(True for _ in child.children())
        if isinstance(module, lists) and composed and not isinstance(child, lists):
            yield child
        else:
            yield from _blocks(child)


@contextmanager
def _counted_once(block: nn.Module) -> Iterator[None]:
    """Batch norms inside use the batch's statistics, but leave their running ones, which have already seen them."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm, norm.momentum, _count(norm)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)


def _count(norm: _BatchNorm) -> torch.Tensor | None:
    return None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
