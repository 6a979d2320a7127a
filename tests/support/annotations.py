"""Photos, annotation files by hand, and what `semseg data import` makes of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from semseg_app.cli.main import app
from semseg_app.data.dataset import SegmentationData, open_folder
from semseg_app.errors import UserError

WIDTH, HEIGHT = 40, 30


def photo(path: Path, width: int = WIDTH, height: int = HEIGHT, turn: int = 1, seed: int = 0) -> Path:
    """Noise, no two seeds alike; `turn` is its EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *path.name.encode()]).integers(0, 255, (height, width, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = turn
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def imported(source: Path, *options: str) -> tuple[SegmentationData, dict]:
    """The dataset that the command line makes, and its report."""
    out = source.parent / f"imported{len(list(source.parent.glob('imported*')))}"
    result = CliRunner().invoke(app, ["data", "import", str(source), "-o", str(out), "--json", *options])
    if result.exception:
        assert not out.exists()
        assert not list(out.parent.glob(f".{out.name}*"))
        raise result.exception
    report = json.loads(result.stdout)
    objects = report["objects"]
    parts = [*objects["drawn"].values(), *objects["ignored"].values(), *objects["no_area"].values()]
    assert objects["read"] == sum(parts) + objects["without_pixels"]
    return open_folder(out), report


def refusal(source: Path, *options: str) -> str:
    """The one line with which the import is refused; nothing is left behind."""
    with pytest.raises(UserError) as error:
        imported(source, *options)
    line = str(error.value)
    assert "\n" not in line
    return line


def masks(data: SegmentationData) -> dict[str, np.ndarray]:
    """ "split/stem" -> class map, of every labeled photo; each is as large as its photo."""
    return {
        f"{split}/{sample.stem}": data.read_pair(sample)[1]
        for split in data.folders
        for sample in data.samples(split)
        if sample.label
    }


def mask(data: SegmentationData, *names: str) -> np.ndarray:
    """The class map of the only labeled photo, its classes numbered as in `names`; 255 stays."""
    (only,) = masks(data).values()
    lookup = np.full(256, 255, np.uint8)
    for index, name in enumerate(data.info.classes):
        lookup[index] = names.index(name)
    return lookup[only]


def canvas(fill: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.full((height, width), fill, np.uint8)
