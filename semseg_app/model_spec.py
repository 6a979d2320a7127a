"""What a network is, as data. Outside models/ because that needs torch, and a model folder is read without it."""

from typing import Literal

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
    transformers (ViT, DeiT, DINOv2) of timm, pidnet its own pidnet_s and pidnet_m, the others everything else."""
    output_stride: Literal[8, 16, 32] | None = None
    """Stride of the deepest encoder stage; None = the architecture's own: 8 for deeplabv3, pspnet and ocr (but
    32 over an HRNet), 16 for deeplabv3plus, the encoder's patch size for setr and dpt (which take no other), 64 for
    pidnet (likewise), 32 for the others."""
    decoder_channels: int | None = Field(default=None, ge=8, le=8192)
    """Width of the decoder (of a unet: of its last block); None = the architecture's own."""


class ModelSpec(NetworkChoice):
    """Everything that `models.build` needs. Two equal specs give networks with the same tensors."""

    num_classes: int = Field(ge=1, le=255)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    """Normalization of RGB in [0, 1]. The network applies it itself."""
