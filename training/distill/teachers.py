"""The teacher, whatever it is: one of our networks, a model of transformers or an .onnx file, in the student's classes.

A model folder of ours gives every map of the network; the others give class scores alone. Where classes differ,
`teacher_classes` says which of the teacher's mean which of the student's (semseg_app/inference/class_mapping.py).
"""

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.artifact import no_model, read_config
from semseg_app.artifact.transformers_folder import transformers_type
from semseg_app.data.dataset import SegmentationData
from semseg_app.errors import UserError
from semseg_app.hub.download import local_model
from semseg_app.inference.class_mapping import TeacherClasses, class_mapping
from semseg_app.models import SegmentationNetwork, load
from semseg_app.training.contracts import MapName
from semseg_app.training.distill.maps import padded_size, select_feature
from semseg_app.training.losses.pseudo_label import at_least_float32

IMPOSSIBLE = -1e4
"""Logit of a class that cannot be: its probability is 0 in every precision, and 0 times its logarithm is 0, not NaN."""


class GraphModel(nn.Module):
    """An .onnx file of another program. It runs in ONNX Runtime, so photos leave torch and come back as scores."""

    def __init__(self, path: Path):
        super().__init__()
        try:
            from semseg_app.inference.engines.onnxruntime import open_session
            from semseg_app.inference.engines.other_onnx import OtherGraph
        except ImportError as error:
            raise UserError(
                f"{path}: needs the extra `cpu` or `gpu` ({error}): pip install 'semseg-app[cpu]'"
            ) from error
        self.graph = OtherGraph(path, open_session(path, "auto", None))

    def logits(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """uint8 RGB `[B, 3, H, W]` -> float32 logits `[B, C, *size]`; without a size on the graph's own grid.

        Hard labels become 0 for the class and `IMPOSSIBLE` for the others, in the photo's size.
        """
        pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())
        if self.graph.is_hard:
            classes = torch.from_numpy(self.graph.class_maps(pixels)).long().to(images.device)
            certain = functional.one_hot(classes, len(self.graph.labels.classes)).permute(0, 3, 1, 2)
            return IMPOSSIBLE * (1 - certain.float())
        logits = torch.from_numpy(self.graph.logits(pixels)).to(images.device)
        return logits if size is None else functional.interpolate(logits, size=size, mode="bilinear")


class Teacher(nn.Module):
    """A trained model that is followed, always in eval mode and without gradients.

    Args:
        model: a model folder, a folder that transformers saved, an .onnx file of another program, or a Hub id.
        data: the student's.
        partners: `method.teacher_classes`; None = the classes must be equal.

    Raises:
        UserError: the model cannot be loaded, or its classes are others. A warning names classes without a partner.
    """

    partner: Tensor
    taught: Tensor

    def __init__(self, model: Path, data: SegmentationData, partners: TeacherClasses | None):
        super().__init__()
        self.path = local_model(model)
        self.network: SegmentationNetwork | None = None
        if self.path.is_dir() and transformers_type(self.path):
            try:
                from semseg_app.inference.engines.hf import TransformersModel
            except ImportError as error:
                raise UserError(f"{self.path}: needs the extra `hf` ({error}): pip install 'semseg-app[hf]'") from error
            self.scores: nn.Module | None = (other := TransformersModel(self.path))
            self.logits = other.logits
            classes = other.labels.classes
        elif self.path.is_dir():
            classes = read_config(self.path).labels.classes
            self.network, self.scores = load(self.path), None
        elif self.path.suffix == ".onnx":
            self.scores = (graph := GraphModel(self.path))
            self.logits = graph.logits
            classes = graph.graph.labels.classes
        else:
            raise no_model(self.path)
        self.requires_grad_(False)
        self.eval()
        mapping = class_mapping(classes, data.info.classes, partners)
        if mapping is None and classes != data.info.classes:
            raise UserError(
                f"method.teacher: {model} knows {', '.join(classes)}, but {data.root} has "
                f"{', '.join(data.info.classes)}; name partners in method.teacher_classes, or train the teacher on the "
                "same classes"
            )
        self.mapping = mapping
        if mapping is not None:
            self.register_buffer("partner", torch.from_numpy(mapping.partner), persistent=False)
            taught = torch.tensor([name not in mapping.untaught for name in mapping.classes])
            self.register_buffer("taught", taught, persistent=False)
            if mapping.warning:
                warnings.warn(f"method.{mapping.warning}", stacklevel=2)

    @property
    def is_hard(self) -> bool:
        """Whether it gives class maps alone."""
        return isinstance(self.scores, GraphModel) and self.scores.graph.is_hard

    @property
    def is_partial(self) -> bool:
        """Whether its logits are hard labels, or classes have no partner: nothing but KD can follow those."""
        mapping = self.mapping
        return self.is_hard or (mapping is not None and bool(mapping.without_partner or mapping.untaught))

    def train(self, mode: bool = True) -> Self:
        """It stays in eval mode: its batch statistics are what it was trained to."""
        return super().train(False)

    def covers(self, images: Tensor) -> tuple[int, int]:
        """Height and width in pixels that its maps of `images [B, 3, H, W]` cover."""
        if self.network is not None:
            return padded_size(self.network, images)
        return images.shape[2], images.shape[3]

    @torch.no_grad()
    def maps(self, images: Tensor, names: Collection[MapName]) -> dict[MapName, Tensor]:
        """Its maps by name, logits in its own classes.

        Args:
            images: float RGB in [0, 1], `[B, 3, H, W]`.
            names: what distillers read; of a teacher without a network the logits alone.
        """
        if self.network is None:
            return {"logits": self.logits(_as_bytes(images))}
        features = self.network.features(images)
        return {name: select_feature(features, name) for name in names}

    def in_student_classes(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, T, h, w]` in the teacher's classes -> `[B, K, h, w]` in the student's.

        Probabilities of classes with one partner are added. A class of the student that the teacher does not know is
        `IMPOSSIBLE`. Also bool `[B, h, w]`: where a class without a partner is the most probable.
        """
        assert self.mapping is not None
        logits = at_least_float32(logits)
        merged = logits.new_full((len(logits), len(self.taught), *logits.shape[2:]), IMPOSSIBLE)
        for index in self.taught.nonzero().flatten().tolist():
            merged[:, index] = logits[:, self.partner == index].logsumexp(dim=1)
        if not self.mapping.without_partner:
            return merged, torch.zeros_like(merged[:, 0], dtype=torch.bool)
        return merged, logits[:, self.partner < 0].amax(dim=1) > merged.amax(dim=1)

    def pair_of_logits(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of student `[B, K, h, w]` and teacher `[B, T, h, w]` on one grid -> both in the student's classes.

        Where classes differ, what has no partner makes no difference and no gradient: the student's classes that the
        teacher does not know are `IMPOSSIBLE` to both, and where the teacher sees a class without a partner, it repeats
        the student.
        """
        if self.mapping is None:
            return student, teacher
        merged, without = self.in_student_classes(teacher)
        student = at_least_float32(student)  # in bfloat16 the two would not be equal
        own = torch.where(self.taught[:, None, None], student, torch.full_like(student, IMPOSSIBLE))
        return own, torch.where(without[:, None], own.detach().to(merged.dtype), merged)

    @torch.no_grad()
    def full_logits(self, images: Tensor) -> Tensor:
        """Float RGB in [0, 1], `[B, 3, H, W]` -> logits in the student's classes, `[B, K, H, W]`."""
        if self.network is not None:
            logits = self.network.full_logits(images)
        else:
            logits = self.logits(_as_bytes(images), (images.shape[2], images.shape[3]))
        return logits if self.mapping is None else self.in_student_classes(logits)[0]


def _as_bytes(images: Tensor) -> Tensor:
    """Float RGB in [0, 1] -> uint8, as models of other programs see photos."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
