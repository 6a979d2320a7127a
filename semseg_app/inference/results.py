"""The folder that `semseg predict` writes: masks/, overlays/, shares.csv."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semseg_app.artifact import LabelSpace
from semseg_app.errors import UserError
from semseg_app.files import atomic_file
from semseg_app.inference.engines import Prediction
from semseg_app.masks import indexed_png
from semseg_app.visualize import class_shares, overlay


class ResultFolder:
    """Results of many images, one file at a time, each whole or not at all.

    Args:
        folder: made when the first file is written.
        labels: classes and palette of the model.
        overlays: whether to write the photos under the class colours too.
    """

    def __init__(self, folder: Path, labels: LabelSpace, overlays: bool):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file; results need a folder")
        self.folder = folder
        self.labels = labels
        self.overlays = overlays
        self.shares = folder / "shares.csv"
        self.rows: list[dict[str, Any]] = []
        """What was written, an image a row, as --json shows it."""

    def add(self, source: Path, name: str, image: np.ndarray, prediction: Prediction) -> None:
        """Write the mask and the overlay of one image, as masks/<name>.png and overlays/<name>.jpg."""
        mask = self.folder / "masks" / f"{name}.png"
        with atomic_file(mask) as part:
            part.write_bytes(indexed_png(prediction.classes, self.labels.palette))
        row: dict[str, Any] = {
            "file": str(source),
            "width": image.shape[1],
            "height": image.shape[0],
            "mask": str(mask),
            "shares": dict(
                zip(
                    self.labels.classes,
                    class_shares(prediction.classes, len(self.labels.classes)).round(6).tolist(),
                    strict=True,
                )
            ),
            "mean_confidence": round(float(prediction.confidence.mean()) / 255, 6),
        }
        if self.overlays:
            picture = self.folder / "overlays" / f"{name}.jpg"
            encoded = io.BytesIO()
            Image.fromarray(overlay(image, prediction.classes, self.labels.palette)).save(encoded, "JPEG", quality=90)
            with atomic_file(picture) as part:
                part.write_bytes(encoded.getvalue())
            row["overlay"] = str(picture)
        self.rows.append(row)

    def write_shares(self) -> None:
        """Write shares.csv: file, width, height, the share of the pixels of each class, mean confidence."""
        with atomic_file(self.shares) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "width", "height", *self.labels.classes, "mean_confidence"])
            for row in self.rows:
                writer.writerow(
                    [row["file"], row["width"], row["height"], *row["shares"].values(), row["mean_confidence"]]
                )
