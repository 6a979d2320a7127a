"""Small datasets as people have them, and what the doctor says of them."""

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from semseg_app.data.check import check
from semseg_app.data.layouts import open_dataset

NUMBERS = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64) // 16 % 3
"""A mask of the classes 0, 1 and 2."""
ZERO_AND_255 = np.where(NUMBERS > 0, 255, 0).astype(np.uint8)


def photo(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path, **({"format": "JPEG"} if path.suffix in (".jpg", ".jfif", ".heic") else {}))


def mask(path: Path, values: np.ndarray = NUMBERS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def folder(root: Path, masks: list[np.ndarray], classes: str = "[ground, plant, tool]", **more: object) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    text = f"name: own\nclasses: {classes}\n" + (yaml.safe_dump(more) if more else "")
    (root / "dataset.yaml").write_text(text)
    for number, values in enumerate(masks):
        photo(root / "images" / "train" / f"p{number}.png", number)
        mask(root / "labels" / "train" / f"p{number}.png", values)
    return root


def kinds(root: Path) -> dict[str, str]:
    """Kind -> file of the doctor's findings and notes."""
    report = check(open_dataset(root))
    return {finding.kind: finding.file for finding in [*report.findings, *report.notes]}
