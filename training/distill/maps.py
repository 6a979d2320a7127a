"""Maps of networks by name, and the same map of student and teacher on one grid."""

import torch
from torch import Tensor
from torch.nn import functional

from semseg_app.errors import UserError
from semseg_app.models import Features, SegmentationNetwork
from semseg_app.training.contracts import MapName
from semseg_app.training.losses.pseudo_label import at_least_float32


def select_feature(features: Features, name: MapName) -> Tensor:
    """The map of that name, `[B, C, h, w]`."""
    if isinstance(name, int):
        return features.stages[name]
    return features.decoder if name == "decoder" else features.logits


class NetworkPair:
    """Student and teacher, in the eyes of a distiller that is being built.

    Args:
        student: learns.
        teacher: is followed; None = a model of another program, which gives logits alone.
        key: where the recipe names a distiller's maps, for messages.
    """

    def __init__(self, student: SegmentationNetwork, teacher: SegmentationNetwork | None, key: str):
        self._networks = {"student": student, "teacher": teacher}
        self._key = key
        self.num_classes = student.spec.num_classes

    def widths(self, name: MapName) -> tuple[int, int]:
        """Channels of the student's and of the teacher's map. UserError where an encoder has no such stage."""
        student, teacher = (self._width(role, network, name) for role, network in self._networks.items())
        return student, teacher

    def _width(self, role: str, network: SegmentationNetwork | None, name: MapName) -> int:
        if name == "logits":
            return self.num_classes
        if network is None:
            raise UserError(
                f"{self._key}: the {role} is a model of another program, which gives class scores and no {name}; use "
                "kd or maskd, or a teacher that was trained here"
            )
        if not isinstance(name, int):
            return network.decoder_channels
        stages = network.stage_channels
        if not -len(stages) <= name < len(stages):
            raise UserError(
                f"{self._key}: the {role}'s {network.spec.encoder} has stages {-len(stages)} to {len(stages) - 1}, "
                f"not {name}"
            )
        return stages[name]


def padded_size(network: SegmentationNetwork, images: Tensor) -> tuple[int, int]:
    """Height and width in pixels that the network's maps of `images [B, 3, H, W]` cover."""
    height, width = (side + -side % network.stride for side in images.shape[2:])
    return height, width


def on_grid(
    feature: Tensor, covers: tuple[int, int], grid: tuple[int, int], extent: tuple[int, int], nearest: bool = False
) -> Tensor:
    """Bilinear (align_corners False) from one grid over an image to another, pixel for pixel at the same place.

    Networks of different strides pad an image differently, so two grids need not end at the same pixel: both begin top
    left, and past its end a map is continued with its border.

    Args:
        feature: `[B, C, h, w]`; returned unchanged where nothing changes.
        covers: height and width in pixels that it covers.
        grid: rows and columns of the result.
        extent: height and width in pixels that they shall cover.
        nearest: take the nearest value instead, as hard labels need.
    """
    if feature.shape[2:] == grid and covers == extent:
        return feature
    rows, columns = extent[0] / covers[0], extent[1] / covers[1]
    theta = torch.tensor([[columns, 0, columns - 1], [0, rows, rows - 1]], device=feature.device)
    places = functional.affine_grid(theta.expand(len(feature), 2, 3), [len(feature), 1, *grid], align_corners=False)
    with torch.autocast(feature.device.type, enabled=False):
        feature = at_least_float32(feature)
        mode = "nearest" if nearest else "bilinear"
        return functional.grid_sample(
            feature, places.to(feature.dtype), mode, padding_mode="border", align_corners=False
        )
