"""What a network is, as data. Outside models/ because that needs torch, and a model folder is read without it."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class NetworkChoice(BaseModel):
    """Which network, before the data has said how many classes there are."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    architecture: str = "deeplabv3plus"
    """A row of semseg_app/models/registry.py."""
    encoder: str = "resnet18"
    """A segmentation_models_pytorch encoder, or any timm model as "tu-<name>". setr and dpt take plain vision
    transformers (ViT, DeiT, DINOv2) of timm, pidnet its own pidnet_s, pidnet_m and pidnet_l, the others everything
    else."""
    output_stride: Literal[8, 16, 32] | None = None
    """Stride of the deepest encoder stage; None = the architecture's own: 8 for deeplabv3, pspnet and ocr (but
    32 over an HRNet), 16 for deeplabv3plus in its three forms, the encoder's patch size for setr and dpt (which take
    no other), 64 for pidnet (likewise), 32 for the others."""
    decoder_channels: int | None = Field(default=None, ge=8, le=8192)
    """Width of the decoder (of a unet: of its last block); None = the architecture's own."""
    align_corners: bool = False
    """Bilinear resizing that puts corner pixels on corner pixels, and no padding of the image, as the published runs of
    deeplabv3plus-plain and deeplabv3plus-separable have it: with sides of a multiple of 16 and one (513, 321), every
    cell of a map lies on a pixel. Only these two take it."""
    fuse: Literal["nearest", "bilinear"] = "nearest"
    """How an HRNet brings its coarser branches to the finer ones: nearest as timm does it and as its ImageNet weights
    were trained, bilinear as in the code of HRNet, OCR and the contrast papers."""
    multi_grid: tuple[int, int, int] | None = None
    """Factors on the dilation of the three blocks of a dilated ResNet's last stage, e.g. [2, 2, 4] in AugSeg's; None =
    no factors."""
    position_grid: int | None = Field(default=None, ge=2, le=256)
    """Rows and columns of a vision transformer's position table, which is resized once, when the weights are loaded,
    and learns at that size: 32 in S4Former, for crops of 512 in patches of 16. None = the size of its weights, resized
    to the image in every pass."""


class ModelSpec(NetworkChoice):
    """Everything that `models.build` needs. Two equal specs give networks with the same tensors."""

    num_classes: int = Field(ge=1, le=255)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    """Normalization of RGB in [0, 1]. The network applies it itself."""
    revision: Literal[1, 2] = 2
    """Which form of the architecture; only of a pidnet there are two. 2 = as published. 1 = as this package built it
    before: one ReLU more, between the two bottlenecks of stride 64, and no norm before the pooling of the whole map."""


def stored_spec(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A spec as a file holds it, with the keys that its writer did not know yet; what it means stays the same."""
    if content.get("architecture") == "pidnet" and "revision" not in content:
        return {**content, "revision": 1}
    return content
