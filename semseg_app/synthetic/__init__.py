"""Synthetic streets: a small dataset for demos, tests and comparisons of methods. It needs no download; any size.

`render(seed, index, height, width)` is a pure function: the same street on every machine (the label bit for bit, the
photo up to rounding), and the same street at every size. `generate` writes a dataset folder of them.

How a photo is made, one step per file: random numbers choose a site and its weather (site.py, light.py); the ground and
objects are placed on it (ground.py, scene.py), all made of flat faces (shapes.py, houses.py, plants.py, roadside.py,
cars.py, people.py); the faces are drawn from far to near (render.py) and shaded with light and textures (paint.py,
texture.py); a simulated camera turns the light into the photo (lens.py).
"""

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from semseg_app.errors import UserError
from semseg_app.files import atomic_folder
from semseg_app.synthetic.lens import develop
from semseg_app.synthetic.render import render_scene
from semseg_app.synthetic.scene import compose
from semseg_app.synthetic.shapes import RandomSource

VARIETY = 0.3
"""Spread of light, weather, colors and cameras. Higher: a few labels tell less about the rest."""
CLUTTER = 1.0
"""How many cars, people, signs, trees and lamps there are, and so how much hides what."""

CLASSES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
"""Those of CamVid in its order. As there, a traffic light is a sign, a hedge is a tree, and a bus is a car."""
PALETTE = [
    (104, 182, 240), (150, 110, 100), (255, 225, 90), (108, 92, 140), (226, 152, 206), (72, 160, 72),
    (255, 120, 0), (120, 205, 190), (38, 70, 200), (225, 40, 70), (150, 20, 110),
]  # fmt: skip
SIZE = (192, 256)
"""Default height and width in pixels."""
LABELED_COUNTS = (8, 16, 32, 64, 128)
FIRST_INDEX = {"train": 0, "val": 1 << 24, "unlabeled": 2 << 24}
"""Where the indices of each split start, far apart: more training images do not change the validation images."""


def render(seed: int, index: int, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Street number `index` of `seed` -> photo uint8 [H, W, 3] (RGB) and label uint8 [H, W] (indices of CLASSES).

    A wider photo shows more on both sides; a larger one of the same shape shows the same in more detail.
    """
    layout, weather, grain = np.random.SeedSequence([seed, index]).spawn(3)
    scene = compose(RandomSource(layout), RandomSource(weather), VARIETY, CLUTTER)
    light, label = render_scene(scene, height, width)
    return develop(light, scene.lens, scene.light.rain, grain), label


def generate(
    root: Path,
    train: int = 256,
    val: int = 64,
    unlabeled: int = 0,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    labeled_counts: Sequence[int] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a dataset folder (layout: data/dataset.py) of synthetic streets; whole or not at all.

    Args:
        root: the folder to create; must not exist yet.
        train, val, unlabeled: how many images in images/train, images/val and unlabeled/.
        size: height and width in pixels.
        seed: another seed gives other streets.
        labeled_counts: for each n, the lists splits/n-labeled.txt and splits/n-unlabeled.txt part the training images
            into the first n and the rest, so smaller lists lie inside larger ones. None: LABELED_COUNTS below `train`.
        workers: processes; the files are the same for any number.
        progress: called with (images done, images in all).

    Raises:
        UserError: the folder exists, or a number makes no sense.
    """
    if root.exists():
        raise UserError(f"{root}: exists already; remove it or choose another folder")
    if train < 1 or val < 0 or unlabeled < 0 or seed < 0 or workers < 1:
        raise UserError("generate: train and workers must be at least 1; val, unlabeled and seed must not be negative")
    if not all(32 <= side <= 8192 for side in size):
        raise UserError(f"generate: size {size[0]}x{size[1]}: height and width must be from 32 to 8192 pixels")
    counts = [n for n in LABELED_COUNTS if n < train] if labeled_counts is None else sorted(set(labeled_counts))
    if any(not 0 < count < train for count in counts):
        raise UserError(
            f"generate: labeled counts {counts} must lie between 1 and {train - 1}, one less than the training images"
        )
    parts = {name: count for name, count in (("train", train), ("val", val), ("unlabeled", unlabeled)) if count}
    jobs = [(name, FIRST_INDEX[name] + number) for name, count in parts.items() for number in range(count)]
    with atomic_folder(root) as folder:
        for name in parts:
            for kind in ("images", "labels") if name != "unlabeled" else ():
                (folder / kind / name).mkdir(parents=True)
        if unlabeled:
            (folder / "unlabeled").mkdir()
        write = partial(_write, folder, seed, size)
        if workers == 1:
            _count(map(write, jobs), len(jobs), progress)
        else:
            # Spawned, not forked: the caller may hold threads.
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
                _count(pool.map(write, jobs, chunksize=4), len(jobs), progress)
        info = {
            "name": "streets",
            "classes": CLASSES,
            "palette": [list(color) for color in PALETTE],
            "ignore_index": 255,
            "license": "cc0-1.0",
        }
        info["splits"] = {name: count for name, count in parts.items() if name != "unlabeled"}
        (folder / "dataset.yaml").write_text(yaml.safe_dump(info, sort_keys=False, default_flow_style=None))
        stems = [_stem("train", FIRST_INDEX["train"] + number) for number in range(train)]
        for count in counts:
            (folder / "splits").mkdir(exist_ok=True)
            for suffix, chosen in (("labeled", stems[:count]), ("unlabeled", stems[count:])):
                (folder / "splits" / f"{count}-{suffix}.txt").write_text("\n".join(chosen) + "\n")


def _stem(part: str, index: int) -> str:
    return f"{part}_{index - FIRST_INDEX[part]:05d}"


def _write(folder: Path, seed: int, size: tuple[int, int], job: tuple[str, int]) -> None:
    """Render and save one image of a part, with its label where the part has labels."""
    part, index = job
    photo, label = render(seed, index, *size)
    where = folder / "unlabeled" if part == "unlabeled" else folder / "images" / part
    # Without color subsampling: thin things keep their color.
    Image.fromarray(photo).save(where / f"{_stem(part, index)}.jpg", quality=95, subsampling=0)
    if part != "unlabeled":
        mask = Image.fromarray(label)
        mask.putpalette([channel for color in PALETTE for channel in color])
        mask.save(folder / "labels" / part / f"{_stem(part, index)}.png", optimize=True)


def _count(done: Iterable[None], total: int, progress: Callable[[int, int], None] | None) -> None:
    for number, _ in enumerate(done, 1):
        if progress:
            progress(number, total)
