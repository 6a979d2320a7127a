"""Memory and processor time of `semseg data next` on growing numbers of photos, one thread.

    python benchmarks/next_memory.py MODEL [--photos 5000,20000,50000] [--count 100] [--json FILE]

The photos are smooth noise of 96x64 pixels, no two alike, 100 of them with a mask; small photos, because what is
measured is what grows with their number. The command runs in a process of its own, whose peak memory and processor time
the system reports.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from semseg_app.inference.engines.open import open_engine
from semseg_app.machine import hardware

LABELED = 100
RUN = "from semseg_app.cli.main import main; main()"


def write_photos(root: Path, count: int, classes: list[str]) -> None:
    """A dataset folder of `count` photos, of which the first 100 have a mask."""
    random = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder / "train").mkdir(parents=True)
    (root / "dataset.yaml").write_text(yaml.safe_dump({"name": "noise", "classes": classes}))
    for number in range(count):
        small = random.integers(0, 256, (4, 6, 3), np.uint8)
        photo = Image.fromarray(small).resize((96, 64), Image.Resampling.BICUBIC)
        photo.save(root / "images" / "train" / f"{number:06d}.jpg")
    mask = Image.fromarray(np.zeros((64, 96), np.uint8))
    for number in range(LABELED):
        mask.save(root / "labels" / "train" / f"{number:06d}.png")


def measured(model: Path, data: Path, count: int) -> dict[str, float | int]:
    """Run the command; its peak memory, processor time, and what it says of its choice."""
    command = ["data", "next", str(model), str(data), "--count", str(count), "--threads", "1", "--json"]
    with tempfile.TemporaryFile() as answer:
        process = subprocess.Popen([sys.executable, "-c", RUN, *command], stdout=answer)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"semseg {' '.join(command)} failed")
        answer.seek(0)
        choice = json.load(answer)
    return {
        "considered": choice["considered"],
        "near_duplicates": choice["near_duplicates"],
        "chosen": len(choice["photos"]),
        "peak_mib": usage.ru_maxrss // 1024,
        "processor_s": round(usage.ru_utime + usage.ru_stime, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--photos", default="5000,20000,50000")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    engine = open_engine(arguments.model, "torch", threads=1)
    classes = list(engine.labels.classes)
    rows = []
    for photos in map(int, arguments.photos.split(",")):
        with tempfile.TemporaryDirectory() as name:
            write_photos(Path(name) / "noise", photos, classes)
            rows.append({"photos": photos} | measured(arguments.model, Path(name) / "noise", arguments.count))
        print(rows[-1], flush=True)
        if arguments.json:
            record = {"hardware": hardware(), "count": arguments.count, "rows": rows}
            arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
