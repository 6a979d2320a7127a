"""What a teacher said of whole photos, read from files and cut as the crops of a training are cut.

The files (training/distill/teacher_cache.py writes them) hold one map of one photo each, on the teacher's own grid.
A crop needs a few of its rows and columns, so they are mapped into memory and never read whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semseg_app.errors import UserError
from semseg_app.training.contracts import MapName
from semseg_app.training.data.weak_augmentation import Window

TaughtMaps = dict[MapName, Tensor]
"""Name -> `[C, rows, columns]`, or a batch of them."""


def map_file(folder: Path, photo: str, name: MapName) -> Path:
    """Where the map of a photo lies; `photo` is its hash. A folder of its own for each first byte of the hash."""
    return folder / photo[:2] / f"{photo}.{name}.npy"


def open_map(path: Path) -> np.ndarray:
    """A map in memory's address space: float16 `[C, rows, columns]`. UserError where the file is missing or damaged."""
    try:
        values: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path}: no readable map of the teacher ({error}); run again with --resume, which writes it anew"
        ) from None
    return values


@dataclass(frozen=True)
class TeacherMaps:
    """The maps of the photos of one list.

    Args:
        folder: of one teacher in a cache.
        photos: the hash of each photo, in the list's order.
        padding: the "photo" of one crop's size that shows nothing but the padding of crops.
        grids: which maps, and the rows and columns that each has over an image of one crop's size.
        stride: the teacher pads photos to multiples of it.
        corners: the outer grid points of its maps are the photo's outer pixels (align_corners), not half a cell inside.
        crop: height and width of the crops.
        short_side: the teacher saw photos resized to this shorter side; None = as large as they are.
    """

    folder: Path
    photos: tuple[str, ...]
    padding: str
    grids: Mapping[MapName, tuple[int, int]]
    stride: int
    corners: bool
    crop: tuple[int, int]
    short_side: int | None

    def of_crop(self, index: int, photo: tuple[int, ...], window: Window, flipped: bool) -> TaughtMaps:
        """Float32 maps `[C, rows, columns]` of one crop, on the grid that the teacher has over an image of its size.

        Values between the grid points of a file are interpolated linearly, and beyond its ends the last ones go on.
        Where a crop is padding, they are what the teacher says of padding.

        Args:
            index: of the photo in the list.
            photo: its height and width in pixels.
            window: where the crop lies.
            flipped: whether it is a mirror image.
        """
        maps: TaughtMaps = {}
        for name, (rows, columns) in self.grids.items():
            whole = open_map(map_file(self.folder, self.photos[index], name))
            down, below = self._places(0, rows, whole.shape[1], photo, window, False)
            right, beside = self._places(1, columns, whole.shape[2], photo, window, flipped)
            top, left = int(down.min()), int(right.min())
            needed = whole[:, top : int(down.max()) + 2, left : int(right.max()) + 2]
            cut = torch.from_numpy(np.array(needed)).float()
            cut = _interpolated(_interpolated(cut, down - top, 1), right - left, 2)
            if below.any() or beside.any():
                padding = open_map(map_file(self.folder, self.padding, name))
                cut[:, below] = torch.from_numpy(padding[:, below]).float()
                cut[:, :, beside] = torch.from_numpy(padding[:, :, beside]).float()
            maps[name] = cut
        return maps

    def _places(
        self, axis: int, cells: int, length: int, photo: tuple[int, ...], window: Window, flipped: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Along one axis: where each of the crop's `cells` lies in a map of `length`, and whether it is padding."""
        crop = self.crop[axis]
        pixel: np.ndarray  # the middle of each cell, from the crop's own top left
        if self.corners:
            pixel = np.linspace(0.5, crop - 0.5, cells)
        else:
            pixel = (np.arange(cells) + 0.5) * (padded(crop, self.stride) / cells)
        inside = pixel <= crop  # the rest is the teacher's own padding, to a multiple of its stride
        if flipped:
            pixel = crop - pixel
        start, source, size = window.source[axis], window.source[axis + 2], window.size[axis]
        seen = resized(photo, self.short_side)[axis]
        place = (start + pixel * (source / size)) * (seen / photo[axis]) - 0.5  # in pixels of what the teacher saw
        if self.corners:
            place *= (length - 1) / max(seen - 1, 1)
        else:
            place = (place + 0.5) * (length / padded(seen, self.stride)) - 0.5
        return place.clip(0, length - 1), inside & (pixel > size)


def resized(photo: tuple[int, ...], short_side: int | None) -> tuple[int, int]:
    """Height and width at which a teacher sees a photo of these."""
    factor = short_side / min(photo[:2]) if short_side else 1.0
    return max(round(photo[0] * factor), 1), max(round(photo[1] * factor), 1)


def padded(side: int, stride: int) -> int:
    """The next multiple of the stride."""
    return side + -side % stride


def _interpolated(values: Tensor, places: np.ndarray, axis: int) -> Tensor:
    """Values at fractional indices along an axis of `[C, rows, columns]`."""
    low = torch.from_numpy(places.astype(np.int64))
    high = (low + 1).clamp(max=values.shape[axis] - 1)
    shape = [1, 1, 1]
    shape[axis] = len(places)
    share = torch.from_numpy(places - low.numpy()).float().view(shape)
    return torch.lerp(values.index_select(axis, low), values.index_select(axis, high), share)
