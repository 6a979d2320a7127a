"""The folder that `semseg predict` writes: masks/ (with their place on the ground), overlays/, shares.csv."""

import contextlib
import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semseg_app.data.mask_pixels import count_pages
from semseg_app.errors import UserError
from semseg_app.files import atomic_file
from semseg_app.inference.georeference import nodata_of, place_of, write_place
from semseg_app.inference.large import segment_large
from semseg_app.inference.predictor import Predictor
from semseg_app.labels import LabelSpace
from semseg_app.masks import indexed_png
from semseg_app.photos import DECODING_ERRORS
from semseg_app.plots.overlays import class_shares, overlay

MASKS, OVERLAYS = RESULT_FOLDERS = ("masks", "overlays")
"""Where the pictures of results lie in their folder."""
SHARES = "shares.csv"
"""The table in it. It is there before the first picture, so that a folder without it holds the pictures of others."""


def refuse_to_replace(folder: Path, names: Iterable[str]) -> None:
    """UserError where results of these names would replace pictures that no earlier run wrote, such as labels."""
    if (folder / SHARES).exists():
        return
    for name in names:
        for path in (folder / MASKS / f"{name}.png", folder / OVERLAYS / f"{name}.jpg"):
            if path.exists():
                raise UserError(
                    f"{path}: would be replaced, and no earlier run of `semseg predict` wrote it ({folder} has no "
                    f"{SHARES}); choose another folder with -o"
                )


class ResultFolder:
    """Results of many images, one file at a time, each whole or not at all.

    Args:
        folder: made when the first file is written.
        labels: classes and palette of the model.
        overlays: whether to write the photos under the class colors too.
        confidence: whether the rows tell the mean confidence of each image.
    """

    def __init__(self, folder: Path, labels: LabelSpace, overlays: bool, confidence: bool = True):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file; results need a folder")
        self.folder = folder
        self.labels = labels
        self.overlays = overlays
        self.confidence = confidence
        self.shares = folder / SHARES
        self.rows: list[dict[str, Any]] = []
        """What was written, one row per image, as --json shows it; `warnings` are what the user should know of it."""

    def add(
        self, source: Path, name: str, image: np.ndarray, classes: np.ndarray, confidence: np.ndarray | None
    ) -> None:
        """Write the mask and the overlay of one image, as masks/<name>.png and overlays/<name>.jpg.

        Args:
            source: the image's file.
            name: of the results.
            image: uint8 RGB `[H, W, 3]`.
            classes: uint8 `[H, W]`.
            confidence: uint8 `[H, W]`; may be None where `self.confidence` is False.
        """
        mask = self._mask(name)
        with atomic_file(mask) as part:
            part.write_bytes(indexed_png(classes, self.labels.palette))
        shares = class_shares(classes, len(self.labels.classes))
        certain = None if confidence is None else float(confidence.mean()) / 255
        row = self._row(source, image.shape[:2], mask, shares, certain)
        nodata = nodata_of(source)
        if nodata is not None and (empty := float((image == nodata).all(axis=2).mean())):
            _warn_of_nodata(row, f"{100 * empty:.3g} % of it have no data (value {nodata})")
        if self.overlays:
            row["overlay"] = self._write_overlay(name, overlay(image, classes, self.labels.palette))

    def add_large(
        self, source: Path, name: str, predictor: Predictor, progress: Callable[[float], None] = lambda done: None
    ) -> None:
        """Segment one image by strips and write what `add` writes, its overlay reduced to a preview.

        UserError when it cannot be read; nothing of it is left then.
        """
        mask = self._mask(name)
        result = segment_large(
            source, predictor, mask, preview=self.overlays, confidence=self.confidence, progress=progress
        )
        shares = result.pixels[: len(self.labels.classes)] / (result.height * result.width)
        row = self._row(source, (result.height, result.width), mask, shares, result.mean_confidence)
        if (nodata := nodata_of(source)) is not None:
            _warn_of_nodata(row, f"pixels of the value {nodata} have no data")
        if result.preview is not None:
            row["overlay"] = self._write_overlay(name, result.preview)

    def _mask(self, name: str) -> Path:
        """Where the mask goes, in a folder that is marked as ours."""
        if not self.rows and not self.shares.exists():
            with atomic_file(self.shares):
                pass
        return self.folder / MASKS / f"{name}.png"

    def _row(
        self, source: Path, size: tuple[int, ...], mask: Path, shares: np.ndarray, mean_confidence: float | None
    ) -> dict[str, Any]:
        """The line of one image, kept in `rows`."""
        row: dict[str, Any] = {
            "file": str(source),
            "width": size[1],
            "height": size[0],
            "mask": str(mask),
            "shares": dict(zip(self.labels.classes, shares.round(6).tolist(), strict=True)),
        }
        if mean_confidence is not None:
            row["mean_confidence"] = round(mean_confidence, 6)
        place = place_of(source)
        written = write_place(place, mask)
        if written:
            row["georeference"] = [str(path) for path in written]
        if place is not None and place.lost:
            _warn(row, place.lost)
        if (count := _pages(source)) > 1:
            _warn(row, f"holds {count} pages or frames, of which the first is segmented; save each by itself")
        self.rows.append(row)
        return row

    def _write_overlay(self, name: str, picture: np.ndarray) -> str:
        """Write uint8 RGB `[H, W, 3]`; -> its path."""
        path = self.folder / OVERLAYS / f"{name}.jpg"
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, "JPEG", quality=90)
        with atomic_file(path) as part:
            part.write_bytes(encoded.getvalue())
        return str(path)

    def write_shares(self) -> None:
        """Write shares.csv: file, width, height, the share of the pixels of each class, mean confidence.

        It is UTF-8 but for the names of files that are not, which keep their bytes.
        """
        confidence = ["mean_confidence"] if self.confidence else []
        with (
            atomic_file(self.shares) as part,
            part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["file", "width", "height", *self.labels.classes, *confidence])
            for row in self.rows:
                writer.writerow(
                    [
                        row["file"],
                        row["width"],
                        row["height"],
                        *row["shares"].values(),
                        *(row[key] for key in confidence),
                    ]
                )


def _pages(source: Path) -> int:
    """How many pictures a TIFF or an animation holds; 1 where that cannot be told."""
    with contextlib.suppress(*DECODING_ERRORS), Image.open(source) as image:
        return count_pages(image) if image.format in ("TIFF", "GIF", "PNG", "WEBP", "AVIF") else 1
    return 1


def _warn(row: dict[str, Any], what: str) -> None:
    row.setdefault("warnings", []).append(what)


def _warn_of_nodata(row: dict[str, Any], what: str) -> None:
    _warn(row, f"{what}; they get classes as all others do, and count in the shares")
