"""Batch normalization that also trains where a channel has one value: one image in a pass, pooled to 1x1."""

from torch import Tensor, nn
from torch.nn import functional


class LenientBatchNorm2d(nn.BatchNorm2d):
    """Where a batch has one value per channel, and so no variance, the running statistics normalize it."""

    def forward(self, maps: Tensor) -> Tensor:
        """`[B, C, H, W]` -> the same shape."""
        if self.training and maps.shape[0] * maps.shape[2] * maps.shape[3] == 1:
            return functional.batch_norm(
                maps, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(maps)


def take_single_values(network: nn.Module) -> None:
    """Make every plain batch norm of `network` lenient. Weights, names and everything else stay."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = LenientBatchNorm2d
