"""How many wrong masks `semseg check DATA --model MODEL` finds: six of 60 are spoiled, three shifted, three swapped.

    python benchmarks/planted_masks.py CAMVID MODEL [--draws 0,1,2] [--json FILE]

The 60 photos are spread evenly over val, which MODEL must not have learned from. A draw chooses six of them: three
masks are moved by 16 to 40 pixels sideways and up to 30 up or down, in three others two classes that cover at least 2 %
of the photo each change places. The command runs as a user runs it; a mask counts as caught where its rank is among the
lowest ten.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from semseg_app.machine import hardware

PHOTOS = 60
EACH = 3
"""Masks that are shifted, and masks with swapped classes."""
LOWEST = 10
LEAST_AREA = 0.02


def plant(source: Path, out: Path, seed: int) -> dict[str, str]:
    """Write the dataset `out`; stem -> what is wrong with its mask."""
    info = yaml.safe_load((source / "dataset.yaml").read_text())
    ignored = info.get("ignore_index", 255)
    (out / "images" / "train").mkdir(parents=True)
    (out / "labels" / "train").mkdir(parents=True)
    (out / "dataset.yaml").write_text(yaml.safe_dump({key: value for key, value in info.items() if key != "splits"}))
    photos = sorted((source / "images" / "val").iterdir())
    photos = [photos[index] for index in np.linspace(0, len(photos) - 1, PHOTOS).round().astype(int)]
    random = np.random.default_rng(seed)
    spoiled = random.choice(PHOTOS, 2 * EACH, replace=False)
    planted = {}
    for number, photo in enumerate(photos):
        shutil.copy(photo, out / "images" / "train")
        mask = np.array(Image.open(source / "labels" / "val" / f"{photo.stem}.png"))
        if number in spoiled[:EACH]:
            down, right = int(random.integers(-30, 31)), int(random.choice([-1, 1]) * random.integers(16, 41))
            mask = shifted(mask, down, right, ignored)
            planted[photo.stem] = f"moved by {right} right and {down} down"
        elif number in spoiled[EACH:]:
            present = [index for index in range(len(info["classes"])) if (mask == index).mean() > LEAST_AREA]
            one, other = random.choice(present, 2, replace=False).tolist()
            mask = np.where(mask == one, other, np.where(mask == other, one, mask)).astype(np.uint8)
            planted[photo.stem] = f"{info['classes'][one]} and {info['classes'][other]} swapped"
        Image.fromarray(mask).save(out / "labels" / "train" / f"{photo.stem}.png")
    return planted


def shifted(mask: np.ndarray, down: int, right: int, fill: int) -> np.ndarray:
    """The mask, moved; `fill` where nothing is known."""
    height, width = mask.shape
    moved = np.full_like(mask, fill)
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = mask[
        max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return moved


def ranks(model: Path, data: Path, sheet: Path) -> list[str]:
    """Stems, the mask that looks worst first."""
    command = ["check", str(data), "--model", str(model), "--threads", "1", "--sheet", str(sheet), "--json"]
    run = [sys.executable, "-c", "from semseg_app.cli.main import main; main()", *command]
    done = subprocess.run(run, stdout=subprocess.PIPE, check=False)  # findings end with exit code 1
    return [Path(row["file"]).stem for row in json.loads(done.stdout)["masks"]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("camvid", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--draws", default="0,1,2")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    draws: list[dict[str, Any]] = []
    for seed in map(int, arguments.draws.split(",")):
        with tempfile.TemporaryDirectory() as name:
            planted = plant(arguments.camvid, Path(name) / "planted", seed)
            order = ranks(arguments.model, Path(name) / "planted", Path(name) / "sheet.html")
        assert len(order) == PHOTOS
        rows = [{"mask": stem, "wrong": planted[stem], "rank": order.index(stem) + 1} for stem in planted]
        draws.append({"seed": seed, "caught": sum(row["rank"] <= LOWEST for row in rows), "planted": rows})
        print(json.dumps(draws[-1], indent=1), flush=True)
        if arguments.json:
            record = {"hardware": hardware(), "masks": PHOTOS, "draws": draws}
            arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
