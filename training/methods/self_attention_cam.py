"""SGC: class activation maps of a small image classifier, refined by self-attention over the encoder's features.

Zou et al., "PseudoSeg: Designing Pseudo Labels for Semantic Segmentation", ICLR 2021, section 3.2 and appendix A. Where
the paper and its released code differ, the code is followed, because the published numbers came from it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.training.losses.pseudo_label import at_least_float32

CAM_FLOOR = 1e-5  # a map is divided by its maximum, but never by less


class ImageClassifier(nn.Module):
    """Which classes an image holds: global average pooling and a linear layer on the deepest encoder stage."""

    def __init__(self, in_channels: int, foreground_classes: int):
        super().__init__()
        self.linear = nn.Linear(in_channels, foreground_classes)

    def forward(self, features: Tensor) -> Tensor:
        """`[B, K, h, w]` -> scores `[B, F]` before the sigmoid, one a foreground class."""
        scores: Tensor = self.linear(features.mean(dim=(2, 3)))
        return scores


@torch.no_grad()
def grad_cam(features: Tensor, weight: Tensor, present: Tensor) -> Tensor:
    """Grad-CAM of every foreground class in one pass, without gradient.

    For average pooling and a linear layer, the gradient of a score with respect to channel k is weight_k / (h w)
    everywhere, so Grad-CAM is a product with the weights and needs no backward passes.

    Args:
        features: `[B, K, h, w]`, what the classifier pooled.
        weight: `[F, K]`, its linear layer.
        present: bool `[B, F]`; the map of an absent class is exactly 0.

    Returns:
        `[B, F, h, w]`, at least float32, each map divided by its maximum (of at least 1e-5).
    """
    with torch.autocast(features.device.type, enabled=False):
        height, width = features.shape[2:]
        maps = torch.einsum("bkhw,fk->bfhw", at_least_float32(features), at_least_float32(weight)) / (height * width)
        maps = maps.relu() * present[:, :, None, None]
        return maps / maps.amax(dim=(2, 3), keepdim=True).clamp(min=CAM_FLOOR)


def cam_probabilities(cam: Tensor, background: int | None) -> Tensor:
    """Grad-CAM read as class probabilities, to be looked at: `[B, F, h, w]` -> `[B, C, h, w]`, sum 1 in every pixel.

    The background gets what no object claims, `1 - max` (appendix A); each pixel is then divided by its sum. A pixel
    that no class claims is even between all.
    """
    if background is not None:
        rest = 1 - cam.amax(dim=1, keepdim=True)
        cam = torch.cat([cam[:, :background], rest, cam[:, background:]], dim=1)
    total = cam.sum(dim=1, keepdim=True)
    return torch.where(total > 0, cam / torch.where(total > 0, total, 1), 1 / cam.shape[1])


def classes_present(labels: Tensor, num_classes: int, background: int | None) -> Tensor:
    """int labels `[B, H, W]` (255 = ignore) -> bool `[B, F]`: the foreground classes that each crop holds.

    F is `num_classes` without the background, or all of them where the dataset has none (None).
    """
    flat = labels.flatten(1).long()
    seen = flat.new_zeros(len(flat), num_classes + 1, dtype=torch.bool)
    seen.scatter_(1, flat.clamp(max=num_classes), True)  # ignored pixels fall into the extra column
    foreground = [index for index in range(num_classes) if index != background]
    return seen[:, foreground]


def hypercolumn(stages: Sequence[Tensor]) -> Tensor:
    """The last two encoder stages on the grid of the deepest, `[B, K1 + K2, h, w]`, without gradient (appendix A)."""
    shallow, deep = stages[-2].detach(), stages[-1].detach()
    if shallow.shape[2:] != deep.shape[2:]:
        shallow = functional.interpolate(shallow, size=deep.shape[2:], mode="bilinear", align_corners=False)
    return torch.cat([shallow, deep], dim=1)


class SelfAttentionCam(nn.Module):
    """SGC: Grad-CAM spread over pixels that look alike, then 1x1 convolution and a norm without scale (appendix A).

    Args:
        hypercolumn_channels: K of `hypercolumn`.
        num_classes: C, background included.
        background: its class index; None where every class is foreground.
        key_channels: width of queries and keys.
    """

    def __init__(
        self, hypercolumn_channels: int, num_classes: int, background: int | None = 0, key_channels: int = 128
    ):
        super().__init__()
        self.background = background
        self.query = nn.Conv2d(hypercolumn_channels, key_channels, 1, bias=False)
        self.key = nn.Conv2d(hypercolumn_channels, key_channels, 1, bias=False)
        self.output = nn.Sequential(nn.Conv2d(num_classes, num_classes, 1, bias=False), nn.BatchNorm2d(num_classes))
        # The released code's norm shifts and does not scale: L_sa cannot sharpen SGC against the decoder by a scale.
        self.output[1].weight.requires_grad_(False)

    def forward(self, columns: Tensor, cam: Tensor, pad: Tensor | None = None) -> Tensor:
        """SGC logits `[B, C, h, w]`. Gradients reach this module's weights only.

        Args:
            columns: `[B, K, h, w]`.
            cam: `[B, F, h, w]` from `grad_cam`.
            pad: bool `[B, h, w]`, True where there is no image or CutOut removed it: nothing is gathered from there.
        """
        logits: Tensor = self.output(self.scores(columns, cam, pad))
        return logits

    def scores(self, columns: Tensor, cam: Tensor, pad: Tensor | None = None) -> Tensor:
        """`A cam + cam` with the background beside it, `[B, C, h, w]`, each in [0, 2].

        Background is `2 - max over foreground` after the attention (the code; the paper takes `1 - max` before it).
        """
        columns, cam = columns.detach(), cam.detach()
        query, key = _pixels_last(self.query(columns)), _pixels_last(self.key(columns))
        value = _pixels_last(cam.to(query.dtype))
        mask = None
        if pad is not None:
            # Finite, so that an image that is all padding attends evenly instead of giving NaN.
            bias = torch.zeros(pad.shape, dtype=query.dtype, device=query.device)
            mask = bias.masked_fill(pad, torch.finfo(query.dtype).min / 2).flatten(1)[:, None, None, :]
        spread = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        foreground = spread.squeeze(1).transpose(1, 2).reshape(cam.shape) + cam
        if self.background is None:
            return foreground
        background = 2 - foreground.amax(dim=1, keepdim=True)
        return torch.cat([foreground[:, : self.background], background, foreground[:, self.background :]], dim=1)


def _pixels_last(maps: Tensor) -> Tensor:
    """`[B, D, h, w]` -> `[B, 1, h w, D]`: one attention head over pixels."""
    return maps.flatten(2).transpose(1, 2).unsqueeze(1)
