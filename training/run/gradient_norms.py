"""How hard each loss pulls at the network: the norms of their gradients, apart from each other.

Weights of losses are hard to compare by the losses' values; their gradients say which term leads.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def gradient_norms(
    losses: Mapping[str, Tensor], parameters: Iterable[nn.Parameter], scale: float = 1.0
) -> dict[str, float]:
    """The L2 norm of each loss's gradient over all `parameters`, as if it were alone. A backward pass for each.

    The graph is kept, and no `.grad` is touched. A loss that no parameter reaches has norm 0.

    Args:
        losses: named scalars.
        parameters: those without requires_grad are left out.
        scale: what the losses are multiplied with on the way, so that half-precision gradients do not vanish.
    """
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    norms = {}
    for name, loss in losses.items():
        found: list[Tensor] = []
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss * scale, learned, retain_graph=True, allow_unused=True)
            found = [gradient.float() for gradient in gradients if gradient is not None]
        norms[name] = float(nn.utils.get_total_norm(found)) / scale if found else 0.0
    return norms
