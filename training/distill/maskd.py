"""MasKD: tokens learn where the teacher's logits matter, then the student is compared there.

Huang et al., "Masked Distillation with Receptive Tokens", ICLR 2023. Stage one freezes the teacher and learns the
tokens, which are kept in a small file. Stage two distils with the masks that they give.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.data.dataset import IGNORE
from semseg_app.errors import UserError
from semseg_app.files import atomic_file
from semseg_app.training.consistency import at_least_float32


class MasKDConfig(BaseModel):
    """Defaults of the released code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["maskd"] = "maskd"
    weight: float = Field(default=1.0, ge=0)
    auxiliary_weight: float = Field(default=0.4, ge=0)
    """Of the same loss between auxiliary heads, times `weight`."""
    tokens: int = Field(default=8, ge=2)
    token_steps: int = Field(default=10000, ge=1)
    """Length of stage one."""
    token_lr: float = Field(default=0.1, gt=0)
    token_weight_decay: float = Field(default=1e-3, ge=0)


class ReceptiveTokens(nn.Module):
    """Tokens over class logits: mask = sigmoid(token . logits).

    Args:
        tokens: how many masks.
        num_classes: K of the logits.
    """

    def __init__(self, tokens: int, num_classes: int):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(tokens, num_classes) * 0.01)

    def forward(self, teacher_logits: Tensor) -> Tensor:
        """`[B, K, h, w]` -> masks in (0, 1), `[B, tokens, h, w]`."""
        with torch.autocast(teacher_logits.device.type, enabled=False):
            logits = at_least_float32(teacher_logits.detach())
            return torch.einsum("tk,bkhw->bthw", self.tokens.to(logits.dtype), logits).sigmoid()


def token_loss(tokens: ReceptiveTokens, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Stage one: cross-entropy of the teacher's logits, weighted and summed over masks, plus the Dice overlap of masks.

    The released loss adds 0.4 x the teacher's auxiliary cross-entropy, which no token can change; it is left out.

    Args:
        tokens: what is learnt.
        teacher_logits: `[B, K, h, w]`.
        labels: int `[B, H, W]`, 255 ignored.
    """
    masks = tokens(teacher_logits)
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


def learn_tokens(
    batches: Iterable[tuple[Tensor, Tensor]], config: MasKDConfig, num_classes: int, device: torch.device | str = "cpu"
) -> tuple[ReceptiveTokens, list[float]]:
    """Stage one: SGD with momentum 0.9 and polynomial decay on (teacher logits, labels), one step a batch.

    Returns the tokens and the loss of every step. The run ends with the batches or after `config.token_steps`.
    """
    tokens = ReceptiveTokens(config.tokens, num_classes).to(device)
    optimizer = torch.optim.SGD(
        tokens.parameters(), lr=config.token_lr, momentum=0.9, weight_decay=config.token_weight_decay
    )
    losses: list[float] = []
    for step, (teacher_logits, labels) in zip(range(config.token_steps), batches, strict=False):
        optimizer.param_groups[0]["lr"] = config.token_lr * (1 - step / config.token_steps) ** 0.9
        loss = token_loss(tokens, teacher_logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return tokens, losses


def save_tokens(path: Path, tokens: ReceptiveTokens) -> None:
    """Write the tokens as a safetensors file."""
    with atomic_file(path) as part:
        save_file({"tokens": tokens.tokens.detach().cpu().contiguous()}, part)


def load_tokens(path: Path, num_classes: int) -> ReceptiveTokens:
    """Read them back; UserError when the file is missing, broken or for another number of classes."""
    try:
        values = load_file(path)["tokens"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; learn the tokens first") from None
    except (SafetensorError, KeyError, OSError) as error:
        raise UserError(f"{path}: not a token file ({error}); learn the tokens again") from error
    if values.shape[1] != num_classes:
        raise UserError(f"{path}: tokens for {values.shape[1]} classes, but there are {num_classes}; learn them again")
    tokens = ReceptiveTokens(len(values), num_classes)
    tokens.load_state_dict({"tokens": values})
    return tokens.requires_grad_(False)
