"""MasKD: tokens learn where the teacher's logits matter, then the student is compared there.

Huang et al., "Masked Distillation with Receptive Tokens", ICLR 2023. The released code has a run of its own for the
tokens. Here they learn in the first steps of the student's run, from the teacher's logits, which are at hand: in that
time the student follows the other losses only. Nothing of the student reaches the tokens, so the order changes no mask.
"""

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, distributed
from torch.nn import functional

from semseg_app.labels import IGNORE
from semseg_app.training.contracts import Distiller, Pairs, PartConfig
from semseg_app.training.losses.pseudo_label import at_least_float32

if TYPE_CHECKING:
    from semseg_app.training.recipe import Recipe

MOMENTUM, POWER = 0.9, 0.9


class MasKDConfig(PartConfig):
    """Defaults of the released code, but for `token_steps` and for the same loss between auxiliary heads: a model
    folder has none."""

    weight: float = Field(default=1.0, ge=0)
    """Weight of the loss between the masked maps."""
    tokens: int = Field(default=8, ge=2)
    """Number of masks that are learned."""
    token_steps: int = Field(default=500, ge=1)
    """Steps at the beginning in which the tokens learn; the released code takes 10000. They need the labels."""
    token_lr: float = Field(default=0.1, gt=0)
    """Learning rate of the tokens' own SGD, with momentum 0.9 and polynomial decay."""
    token_weight_decay: float = Field(default=1e-3, ge=0)
    """Of the tokens' own SGD."""

    def check(self, recipe: "Recipe") -> None:
        """The student follows the masks only after the tokens have learned."""
        if self.token_steps >= recipe.schedule.steps:
            raise ValueError(
                f"method.maskd.token_steps ({self.token_steps}) must be below schedule.steps "
                f"({recipe.schedule.steps}): the student follows the masks only after them"
            )


def receptive_masks(tokens: Tensor, teacher_logits: Tensor) -> Tensor:
    """sigmoid(token . logits): tokens `[T, K]`, logits `[B, K, h, w]` -> masks in (0, 1), `[B, T, h, w]`."""
    with torch.autocast(teacher_logits.device.type, enabled=False):
        logits = at_least_float32(teacher_logits.detach())
        return torch.einsum("tk,bkhw->bthw", tokens.to(logits.dtype), logits).sigmoid()


def token_loss(tokens: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Stage one: cross-entropy of the teacher's logits, weighted and summed over masks, plus the Dice overlap of masks.

    The released loss adds 0.4 x the teacher's auxiliary cross-entropy, which no token can change; it is left out.

    Args:
        tokens: `[T, K]`, what is learnt.
        teacher_logits: `[B, K, h, w]`.
        labels: int `[B, H, W]`, 255 ignored.
    """
    masks = receptive_masks(tokens, teacher_logits)
    weighted = at_least_float32(teacher_logits.detach()) * masks.sum(dim=1, keepdim=True)
    full = functional.interpolate(weighted, size=labels.shape[1:], mode="bilinear", align_corners=False)
    task = functional.cross_entropy(full, labels.long(), ignore_index=IGNORE, reduction="sum")
    return task / (labels != IGNORE).sum().clamp(min=1) + dice_overlap(masks)


def dice_overlap(masks: Tensor) -> Tensor:
    """Mean Dice coefficient 2 <a, b> / (<a, a> + <b, b>) over ordered pairs of different masks of `[B, T, h, w]`."""
    with torch.autocast(masks.device.type, enabled=False):
        flat = at_least_float32(masks).flatten(2)
        products = flat @ flat.mT  # [B, T, T]
        energies = products.diagonal(dim1=1, dim2=2)
        dice = 2 * products / (energies.unsqueeze(1) + energies.unsqueeze(2)).clamp(min=1e-12)
        batch, count, _ = dice.shape
        return (dice.sum() - dice.diagonal(dim1=1, dim2=2).sum()) / (batch * count * (count - 1))


def mask_distillation(student_logits: Tensor, teacher_logits: Tensor, masks: Tensor) -> Tensor:
    """Stage two: half the mean over images, masks and classes of sum_hw (m z_s - m z_t)^2 / sum_hw m.

    The mask is squared with the difference, as in the released code.

    Args:
        student_logits: `[B, K, h, w]`.
        teacher_logits: `[B, K, h, w]`, detached.
        masks: `[B, T, h, w]`, detached.
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits.detach())
        flat = at_least_float32(masks.detach()).flatten(2)
        squares = (student - teacher).square().flatten(2)  # [B, K, hw]
        sums = flat.square() @ squares.mT  # [B, T, K]
        return (sums / (flat.sum(dim=2, keepdim=True) + 1e-5)).mean() / 2


class MasKD(Distiller):
    """Both stages. The tokens are buffers with an optimizer of their own: the run's reaches parameters only.

    Args:
        config: see `MasKDConfig`.
        num_classes: K of the logits.
    """

    reads = ("logits",)
    tokens: Tensor
    velocity: Tensor
    learned_steps: Tensor

    def __init__(self, config: MasKDConfig, num_classes: int):
        super().__init__()
        self.config = config
        self.register_buffer("tokens", torch.randn(config.tokens, num_classes) * 0.01)
        self.register_buffer("velocity", torch.zeros(config.tokens, num_classes))
        self.register_buffer("learned_steps", torch.zeros((), dtype=torch.long))
        self._gradients: list[Tensor] = []  # of the parts of one step; empty between steps, so no checkpoint needs it

    def forward(self, pairs: Pairs, labels: Tensor) -> dict[str, Tensor]:
        """See `Distiller.forward`. `maskd_tokens`, which is without gradient, then `maskd`."""
        student, teacher = pairs["logits"]
        if self.learned_steps < self.config.token_steps:
            tokens = self.tokens.clone().requires_grad_()
            with torch.enable_grad():
                loss = token_loss(tokens, teacher[: len(labels)], labels)
            self._gradients += torch.autograd.grad(loss, tokens)
            return {"maskd_tokens": loss.detach()}
        masks = receptive_masks(self.tokens, teacher)
        return {"maskd": self.config.weight * mask_distillation(student, teacher, masks)}

    @torch.no_grad()
    def after_step(self) -> None:
        """One step of the tokens, on the mean gradient of the step's parts and of all processes."""
        if not self._gradients:
            return
        gradient = torch.stack(self._gradients).mean(dim=0)
        self._gradients = []
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(gradient)
            gradient /= distributed.get_world_size()
        decay = (1 - self.learned_steps.item() / self.config.token_steps) ** POWER
        self.velocity.mul_(MOMENTUM).add_(gradient + self.config.token_weight_decay * self.tokens)
        self.tokens.sub_(self.config.token_lr * decay * self.velocity)
        self.learned_steps += 1
