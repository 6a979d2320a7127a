"""DPT's decoder: four maps of a vision transformer become a pyramid, which is fused from deep to shallow.

Ranftl et al., "Vision Transformers for Dense Prediction", 2021, in the form of UniMatch V2 (Yang et al., 2024): no
class token, no batch norm, widths D/8, D/4, D/2, D. It differs in one point: maps are resized with pixel centers
aligned, as everywhere in this package, not corners. Every map is resized to the grid of the next, so grids of odd sides
work.
"""

from torch import Tensor, nn
from torch.nn import functional


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, beside the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.second(functional.relu(self.first(functional.relu(maps))))


class DPTDecoder(nn.Module):
    """`[image, four times [B, D, h, w]]` -> `[B, channels, 8 h, 8 w]`."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        widths = [in_channels // 8, in_channels // 4, in_channels // 2, in_channels]
        self.reassemble = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, width, 1), resize, nn.Conv2d(width, channels, 3, padding=1, bias=False)
            )
            for width, resize in zip(
                widths,
                (
                    nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                    nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                    nn.Identity(),
                    nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
                ),
                strict=True,
            )
        )
        self.enter = nn.ModuleList(ResidualUnit(channels) for _ in range(3))  # the deepest has nothing to be added to
        self.fuse = nn.ModuleList(
            # The 1x1 convolution comes after resizing in the source; it commutes with it, and is cheaper before.
            nn.Sequential(ResidualUnit(channels), nn.Conv2d(channels, channels, 1))
            for _ in range(4)
        )
        self.last = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())

    def forward(self, maps: list[Tensor]) -> Tensor:
        pyramid = [layer(one) for layer, one in zip(self.reassemble, maps[1:], strict=True)]  # 4h, 2h, h, h/2
        path = self.fuse[3](pyramid[3])
        for level in (2, 1, 0):
            path = functional.interpolate(path, size=pyramid[level].shape[2:], mode="bilinear", align_corners=False)
            path = self.fuse[level](path + self.enter[level](pyramid[level]))
        height, width = path.shape[2:]
        path = functional.interpolate(path, size=(2 * height, 2 * width), mode="bilinear", align_corners=False)
        return self.last(path)
