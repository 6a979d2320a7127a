"""`semseg data import` of a COCO file against a bare pycocotools loop that writes the same masks, on one core.

    python benchmarks/import_speed.py [--images 5000] [--polygons 10] [--rounds 3] [--size 640x480] [--json FILE]

The loop is what people write by hand: `frPyObjects`, `merge`, `decode`, paint, save as PNG with Pillow. Both read the
JSON; the import also looks at every photo, copies it, checks sizes and counts, and writes atomically. The doctor, which
decodes every photo, is timed apart. Ratios are of the same round, in turn, and of processor time (user and system, all
threads), so that other work on the machine counts little; the import waits for no more than the loop does.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks

from semseg_app.data.check import check
from semseg_app.data.dataset import open_folder
from semseg_app.data.importers.annotated import Overlap
from semseg_app.data.importers.dataset_writer import WriteOptions, write_dataset
from semseg_app.data.importers.formats import read_export
from semseg_app.data.importers.labels import choose_classes
from semseg_app.machine import hardware

CLASSES = 20
LAST: Overlap = "last"


def write_export(root: Path, images: int, polygons: int, width: int, height: int) -> Path:
    """Photos of smooth noise (60 KB at 640x480, as photos are) and stars of 8 to 40 corners."""
    random = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    small = random.integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    Image.fromarray(small).resize((width, height)).save(root / "images" / "0.jpg", quality=92)
    records, annotations = [], []
    for image in range(images):
        if image:
            shutil.copyfile(root / "images" / "0.jpg", root / "images" / f"{image}.jpg")
        records.append({"id": image, "file_name": f"{image}.jpg", "width": width, "height": height})
        for _ in range(polygons):
            corners = int(random.integers(8, 41))
            angles = np.sort(random.uniform(0, 2 * np.pi, corners))
            radii = random.uniform(0.5, 1, corners) * random.uniform(10, height / 4)
            points = random.uniform(0, (width, height)) + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
            points = points.clip(0, (width, height)).round(2)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image,
                    "category_id": int(random.integers(1, CLASSES + 1)),
                    "segmentation": [points.ravel().tolist()],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index, "name": f"class {index}"} for index in range(1, CLASSES + 1)]
    path = root / "instances_train.json"
    path.write_text(json.dumps({"images": records, "annotations": annotations, "categories": categories}))
    return path


def bare_loop(path: Path, out: Path) -> None:
    """The loop by hand."""
    content = json.loads(path.read_text())
    by_image: dict[int, list[dict]] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    out.mkdir()
    for image in content["images"]:
        height, width = image["height"], image["width"]
        classes = np.zeros((height, width), np.uint8)
        for annotation in by_image.get(image["id"], []):
            runs = coco_masks.merge(coco_masks.frPyObjects(annotation["segmentation"], height, width))
            classes[coco_masks.decode(runs) > 0] = annotation["category_id"]
        mask = Image.fromarray(classes, "P")
        mask.putpalette(list(range(256)) * 3)
        mask.save(out / f"{image['id']}.png")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--polygons", type=int, default=10, help="per image")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    warnings.simplefilter("ignore")  # pycocotools' decoder warns under NumPy 2
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_export(folder / "export", arguments.images, arguments.polygons, width, height)
        for turn in range(arguments.rounds):
            start = time.process_time()
            bare_loop(path, folder / "bare")
            bare = time.process_time() - start
            start = time.process_time()
            export = read_export(path)
            write_dataset(export, choose_classes(export), folder / "ours", WriteOptions(LAST))
            ours = time.process_time() - start
            start = time.process_time()
            check(open_folder(folder / "ours"))
            doctor = time.process_time() - start
            equal = [
                np.mean(np.asarray(Image.open(folder / "bare" / f"{image}.png")) == np.asarray(Image.open(mask)))
                for image in range(0, arguments.images, 10)
                for mask in [folder / "ours" / "labels" / "train" / f"{image}.png"]
            ]
            figures = {"bare loop s": bare, "import s": ours, "ratio": ours / bare, "doctor s": doctor}
            rounds.append({name: round(value, 3) for name, value in figures.items()})
            rounds[-1]["equal pixels"] = round(float(np.mean(equal)), 7)
            print(f"round {turn}: {rounds[-1]}", flush=True)
            shutil.rmtree(folder / "bare")
            shutil.rmtree(folder / "ours")
    ratio = statistics.median(it["ratio"] for it in rounds)
    print(f"median {ratio:.2f} x")
    if arguments.json:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        sizes = {"images": arguments.images, "polygons": arguments.images * arguments.polygons, "size": arguments.size}
        record = {"command": sys.argv, "commit": commit, "hardware": hardware(), **sizes, "rounds": rounds}
        arguments.json.write_text(json.dumps(record | {"median ratio": ratio}, indent=2) + "\n")


if __name__ == "__main__":
    main()
