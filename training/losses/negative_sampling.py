"""Drawing negatives for pixel contrast by what a network takes the pixels for (PC2Seg's four strategies).

Zhong et al., "Pixel Contrastive-Consistent Semi-Supervised Semantic Segmentation", ICCV 2021. The weights and the
default strategy are our choice: the paper describes strategies against cost and false negatives without formulas.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from semseg_app.training.losses.pseudo_label import at_least_float32

NegativeSampling = Literal["uniform", "cross-image", "debiased", "cross-image-debiased"]


@torch.no_grad()
def negative_weights(strategy: NegativeSampling, probabilities: Tensor, image_index: Tensor) -> Tensor:
    """Weight of pixel j as a negative of pixel i, float `[N, N]`.

    uniform: 1. cross-image: 1 where i and j come from different images. debiased: 1 - <y_i, y_j>, the probability that
    their classes differ. cross-image-debiased: the product (our choice of default; the paper names none).

    Args:
        strategy: see above.
        probabilities: `[N, C]`, class probabilities y of every pixel.
        image_index: int `[N]`, which image each pixel comes from.
    """
    with torch.autocast(probabilities.device.type, enabled=False):
        classes = at_least_float32(probabilities)
        pixels = len(classes)
        if strategy in ("debiased", "cross-image-debiased"):
            # One matrix product: no [N, N, C] is ever formed. Rounding may leave -1e-7 between two sure pixels.
            weights = (1 - classes @ classes.t()).clamp_(min=0)
        else:
            weights = classes.new_ones(pixels, pixels)
        if strategy in ("cross-image", "cross-image-debiased"):
            weights.masked_fill_(image_index.unsqueeze(1) == image_index.unsqueeze(0), 0.0)
        return weights


@torch.no_grad()
def sample_negatives(weights: Tensor, valid: Tensor, count: int, random: Generator) -> Tensor:
    """Draw `count` distinct negatives of every pixel, never itself, in proportion to their weights.

    Without replacement by Gumbel-top-k, here as its equal in exponential form: the largest weight / Exp(1). About four
    `[N, N]` float matrices live at once (0.3 GB at N = 4356).

    Args:
        weights: `[N, N]`, row i for anchor i. A row with fewer than `count` positive weights falls back to uniform.
        valid: bool `[N]`, pixels that may serve as negatives (neither pad nor cut).
        count: at most N are drawn.
        random: source of randomness, on any device.

    Returns:
        int64 `[N, min(count, N)]`; -1 where fewer than `count` other valid pixels exist.
    """
    pixels = len(weights)
    count = min(count, pixels)
    eligible = valid.unsqueeze(0).repeat(pixels, 1).fill_diagonal_(False)
    wanted = torch.where(eligible, weights, 0.0)
    enough = (wanted > 0).sum(dim=1, keepdim=True) >= count
    wanted = torch.where(enough, wanted, eligible.to(weights.dtype))
    # -log of a uniform number: twice as fast as drawing Exp(1) itself. The clamp keeps a drawn 0 finite.
    noise = torch.rand(
        wanted.shape, dtype=wanted.dtype, device=wanted.device, generator=_on_device(random, wanted.device)
    )
    noise.clamp_(min=torch.finfo(noise.dtype).tiny).log_().neg_()
    score, index = wanted.div_(noise).topk(count, dim=1, sorted=False)
    return index.masked_fill_(score <= 0, -1)


def _on_device(random: Generator, device: torch.device) -> Generator:
    """The generator itself, or one on `device` seeded from it: drawing N x N numbers elsewhere would cost a copy."""
    if random.device.type == device.type:
        return random
    seed = int(torch.randint(2**63 - 1, (), generator=random, device=random.device))
    return torch.Generator(device).manual_seed(seed)
