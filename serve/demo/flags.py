"""Bad results that visitors flag, put into a dataset folder for the next round of training.

A photo alone goes to unlabeled/; one that the visitor corrected goes to images/train/ with its mask in labels/train/.
Photos are written as 8-bit RGB PNG from the pixels that were decoded here: whatever a stranger's file holds beside
them (16 bits, CMYK, damaged or huge metadata, several frames) cannot stop the owner's next training.
"""

import base64
import binascii
import hashlib
import io
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from semseg_app.data.dataset import DatasetInfo, open_folder
from semseg_app.errors import UserError
from semseg_app.files import atomic_file
from semseg_app.labels import IGNORE, LabelSpace
from semseg_app.masks import indexed_png
from semseg_app.serve.demo.html import DISPLAY_SIDE

SPLIT = "train"
LARGEST_DRAWING = 16 * 2**20
"""Characters of a drawing's data URL. The wildest drawing of DISPLAY_SIDE x DISPLAY_SIDE pixels has fewer."""


class FlagFolder:
    """A dataset folder that takes in flagged photos, at most `most` in each of its folders.

    UserError when the folder is not a dataset of `labels`' classes, or its masks are not class indices.
    """

    def __init__(self, root: Path, labels: LabelSpace, most: int = 10_000):
        self.root = root
        self.most = most
        self._info = _matching_info(root, labels)
        self._lock = threading.Lock()

    def flag(self, photo: bytes, pixels: np.ndarray) -> str:
        """Keep a photo without a mask. The same photo is kept once.

        Args:
            photo: the file as it was uploaded; its hash names the kept photo.
            pixels: the same decoded and upright, uint8 RGB `[H, W, 3]`.

        Returns its path below the folder. UserError when the folder is full.
        """
        with self._lock:
            path = self._free_path("unlabeled", _name(photo))
            _write_photo(path, pixels)
            return path.relative_to(self.root).as_posix()

    def correct(self, photo: bytes, pixels: np.ndarray, classes: np.ndarray, labels: LabelSpace, drawing: str) -> str:
        """Keep a photo with its corrected mask.

        Args:
            photo: the file as it was uploaded; its hash names the kept photo.
            pixels: the same decoded and upright, uint8 RGB `[H, W, 3]`.
            classes: the model's answer, uint8 `[H, W]`.
            labels: that model's classes; of several models, some may have others than the dataset.
            drawing: a PNG as a data URL, at most as large as the photo: red is the class where green is 255,
                elsewhere the model's answer stays.

        Returns the mask's path below the folder. UserError when the model has other classes than the dataset, the
        drawing cannot be read or names a class that the dataset does not have, or the folder is full.
        """
        if labels.classes != self._info.classes:
            raise UserError(
                f"this model has other classes than the photos that are kept here ({', '.join(self._info.classes)}); "
                "choose a model that has these, then correct its answer"
            )
        painted, values = _read_drawing(drawing, *classes.shape)
        unknown = np.setdiff1d(values[painted], [*range(len(self._info.classes)), IGNORE])
        if unknown.size:
            raise UserError(f"the correction names class {unknown[0]}, which the dataset does not have")
        mask = np.where(painted, values, classes)
        mask[mask == IGNORE] = self._info.ignore_index
        with self._lock:
            photo_path = self._free_path(f"images/{SPLIT}", _name(photo))
            path = self.root / "labels" / SPLIT / photo_path.name
            # The mask first, so that a training which starts now never sees this photo without one.
            with atomic_file(path) as part:
                part.write_bytes(indexed_png(mask, self._info.palette))
            _write_photo(photo_path, pixels)
            return path.relative_to(self.root).as_posix()

    def _free_path(self, folder: str, name: str) -> Path:
        """Where a photo is kept. UserError when the folder is full and the photo is not among those kept already."""
        path = self.root / folder / f"{name}.png"
        if not path.exists() and sum(1 for _ in path.parent.glob("flagged-*")) >= self.most:
            raise UserError(f"{folder}/ holds {self.most} flagged photos already; its owner has to look at them first")
        return path


def _write_photo(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 RGB `[H, W, 3]` as a PNG, if it is not there already."""
    if not path.exists():
        with atomic_file(path) as part:
            Image.fromarray(pixels).save(part, "PNG")


def _name(photo: bytes) -> str:
    return f"flagged-{hashlib.sha256(photo).hexdigest()[:16]}"


def _matching_info(root: Path, labels: LabelSpace) -> DatasetInfo:
    if not root.is_file() and not (root / "dataset.yaml").exists():
        problem = "holds no dataset.yaml" if root.exists() else "no such folder"
        raise UserError(
            f"{root}: {problem}; --flag-to takes a dataset folder whose dataset.yaml lists the model's classes"
        )
    info = open_folder(root).info
    if info.label_map is not None or info.color_map is not None:
        raise UserError(f"{root}: its masks are mapped (label_map, color_map); corrections need plain class indices")
    if info.classes != labels.classes:
        raise UserError(f"{root}: has other classes than the model; flag into a dataset of the model's classes")
    return info


def _read_drawing(drawing: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A drawing at the photo's size: where it was painted, bool `[height, width]`, and the classes there, uint8."""
    head, _, data = drawing.partition(",")
    if not drawing:
        raise UserError("nothing was painted; pick a class, paint over what is wrong, then send it")
    if head != "data:image/png;base64" or len(data) > LARGEST_DRAWING:
        raise UserError("the correction is not a drawing that this page made")
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=("PNG",)) as image:
            if max(image.size) > DISPLAY_SIDE:
                raise UserError("the painted correction is larger than the displayed photo")
            pixels = image.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
    except (OSError, ValueError, SyntaxError, binascii.Error):
        raise UserError("the correction is not a drawing that this page made") from None
    values = np.asarray(pixels)
    return values[..., 1] == 255, values[..., 0]
