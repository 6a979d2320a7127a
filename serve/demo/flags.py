"""Bad results that visitors flag, put into a dataset folder for the next round of training.

A photo alone goes to unlabeled/; one that the visitor corrected goes to images/train/ with its mask in labels/train/.
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
"""Bytes of a drawing as it comes. One of DISPLAY_SIDE a side, however wild, has fewer."""


class FlagFolder:
    """A dataset folder that takes in flagged photos, at most `most` of them.

    UserError when the folder is no dataset of `labels`' classes, or its masks are not class indices.
    """

    def __init__(self, root: Path, labels: LabelSpace, most: int = 10_000):
        self.root = root
        self.most = most
        self._info = _matching_info(root, labels)
        self._lock = threading.Lock()

    def flag(self, photo: bytes, pixels: np.ndarray) -> str:
        """Keep a photo without a mask; -> its path below the folder. The same photo is kept once."""
        with self._lock:
            return self._keep("unlabeled", photo, pixels)

    def correct(self, photo: bytes, pixels: np.ndarray, classes: np.ndarray, drawing: str) -> str:
        """Keep a photo with its corrected mask; -> the mask's path below the folder.

        Args:
            photo: as it was uploaded.
            pixels: the same decoded, uint8 RGB `[H, W, 3]`.
            classes: what the model said, uint8 `[H, W]`.
            drawing: a PNG as a data URL, smaller or equal: red is a class where green is 255, elsewhere the model's
                answer stays.

        UserError when the drawing is none, or names a class that there is not.
        """
        painted, values = _read_drawing(drawing, *classes.shape)
        unknown = np.setdiff1d(values[painted], [*range(len(self._info.classes)), IGNORE])
        if unknown.size:
            raise UserError(f"the correction names class {unknown[0]}, which the dataset does not have")
        mask = np.where(painted, values, classes)
        mask[mask == IGNORE] = self._info.ignore_index
        with self._lock:
            path = self.root / "labels" / SPLIT / f"{_name(photo)}.png"
            # The mask first: nobody ever meets a photo of this folder without one.
            with atomic_file(path) as part:
                part.write_bytes(indexed_png(mask, self._info.palette))
            self._keep(f"images/{SPLIT}", photo, pixels)
            return path.relative_to(self.root).as_posix()

    def _keep(self, folder: str, photo: bytes, pixels: np.ndarray) -> str:
        """Write a JPEG or PNG as it came, anything else as a PNG of its pixels."""
        suffix = ".jpg" if photo.startswith(b"\xff\xd8") else ".png"
        path = self.root / folder / f"{_name(photo)}{suffix}"
        if not path.exists():
            if sum(1 for _ in (self.root / folder).glob("flagged-*")) >= self.most:
                raise UserError(f"{folder}/ holds {self.most} flagged photos already; its owner has to look at them")
            if not photo.startswith((b"\xff\xd8", b"\x89PNG")):
                encoded = io.BytesIO()
                Image.fromarray(pixels).save(encoded, "PNG")
                photo = encoded.getvalue()
            with atomic_file(path) as part:
                part.write_bytes(photo)
        return path.relative_to(self.root).as_posix()


def _name(photo: bytes) -> str:
    return f"flagged-{hashlib.sha256(photo).hexdigest()[:16]}"


def _matching_info(root: Path, labels: LabelSpace) -> DatasetInfo:
    info = open_folder(root).info
    if info.label_map is not None or info.color_map is not None:
        raise UserError(f"{root}: its masks are mapped (label_map, color_map); corrections need plain class indices")
    if info.classes != labels.classes:
        raise UserError(f"{root}: has other classes than the model; flag into a dataset of the model's classes")
    return info


def _read_drawing(drawing: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A drawing at the photo's size: where it says something, bool `[height, width]`, and what, uint8."""
    head, _, data = drawing.partition(",")
    if not drawing:
        raise UserError("nothing was painted; pick a class, paint over what is wrong, then send it")
    if head != "data:image/png;base64" or len(data) > LARGEST_DRAWING:
        raise UserError("the correction is not a drawing of this page")
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=("PNG",)) as image:
            if max(image.size) > DISPLAY_SIDE:
                raise UserError("the correction is larger than the page shows photos")
            pixels = image.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
    except (OSError, ValueError, SyntaxError, binascii.Error):
        raise UserError("the correction is not a drawing of this page") from None
    values = np.asarray(pixels)
    return values[..., 1] == 255, values[..., 0]
