"""Losses whose gradient is made together with their value, chunk by chunk, and kept instead of the intermediates.

A contrast over millions of pairs need not store its pair matrix for the backward pass: the loss is one number, so while
a chunk of pairs is at hand its share of the gradient can be added up at once. Such a loss is a custom operator that
returns (loss, gradient of input 0, gradient of input 1, ...), and whose last arguments say, one flag per gradient,
which to compute. torch.compile takes it as one opaque node of fixed shapes, whatever loops it holds. There are first
derivatives only.
"""

from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef


def carry_gradients(operator: CustomOpDef, inputs: int) -> None:
    """Teach autograd that outputs 1, 2, ... of `operator` are the gradients of output 0 for its first `inputs` inputs.

    An empty gradient means that it was not requested. The compiler learns the shapes of the outputs.
    """

    def shapes(*arguments: Any) -> tuple[Tensor, ...]:
        tensors, wanted = arguments[:inputs], arguments[-inputs:]
        return (tensors[0].new_empty(()), *(zeros_if(flag, one) for flag, one in zip(wanted, tensors, strict=True)))

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])
        ctx.inputs = len(inputs)

    def scale(ctx: Any, loss_gradient: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if loss_gradient is None:
            return (None,) * ctx.inputs
        made = [gradient * loss_gradient if gradient.numel() else None for gradient in ctx.saved_tensors]
        return (*made, *[None] * (ctx.inputs - len(made)))

    operator.register_fake(shapes)
    operator.register_autograd(scale, setup_context=keep)


def wants_gradient(tensor: Tensor) -> bool:
    """Whether a gradient for `tensor` can be asked for later."""
    return tensor.requires_grad and torch.is_grad_enabled()


def zeros_if(wanted: bool, tensor: Tensor) -> Tensor:
    """Room for a gradient of `tensor`, or an empty tensor."""
    return tensor.new_zeros(tensor.shape if wanted else 0)
