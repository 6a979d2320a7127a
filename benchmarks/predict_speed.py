"""`semseg predict` on a folder against a bare loop that decodes, runs and encodes with the same libraries.

    python benchmarks/predict_speed.py GRAPH.onnx [--photos 60] [--size 480x360] [--rounds 5] [--threads 2] [--json OUT]

Both write a mask and an overlay per photo; the loop calls the same reader, engine and encoders one after the other and
writes plain files. They take turns in one process; figures are processor time and time per photo, medians over the
rounds, and the ratio is the loop's over predict's: above 1, predict is faster.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from semseg_app import machine
from semseg_app.data.dataset import read_image
from semseg_app.inference.engines.base import Engine, class_maps
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.files import make_predictor, segment_files
from semseg_app.inference.results import ResultFolder
from semseg_app.masks import indexed_png
from semseg_app.plots.overlays import overlay
from semseg_app.synthetic import generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path)
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--size", default="480x360")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    width, height = (int(side) for side in arguments.size.split("x"))
    engine = open_engine(arguments.graph, "auto", "cpu", arguments.threads, force=True)
    result: dict[str, Any] = {
        "hardware": machine.hardware(),
        "photos": arguments.photos,
        "size": arguments.size,
        "threads": arguments.threads or machine.threads(),
        "engine": f"{engine.name}, {engine.kind}, {engine.precision}",
    }
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        generate(root / "streets", train=arguments.photos, val=1, size=(height, width), workers=machine.cores())
        photos = sorted((root / "streets" / "images" / "train").iterdir())
        for kind, confidence in (("with confidence", True), ("classes alone", False)):
            ways: dict[str, Callable[[], object]] = {
                "loop": lambda own=confidence: loop(engine, photos, root / "loop", own),
                "predict": lambda own=confidence: predict(engine, photos, root / "predict", own),
            }
            result[kind] = in_turn(ways, arguments.rounds, len(photos))
            print(kind, result[kind], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def loop(engine: Engine, photos: list[Path], out: Path, confidence: bool) -> None:
    out.mkdir(exist_ok=True)
    for path in photos:
        image = read_image(path)
        if confidence:
            answer = engine.infer(image[None])
            classes, _ = answer.classes[0], answer.confidence[0].mean()
        else:
            classes = class_maps(engine, image[None])[0]
        (out / f"{path.stem}.png").write_bytes(indexed_png(classes, engine.labels.palette))
        encoded = io.BytesIO()
        Image.fromarray(overlay(image, classes, engine.labels.palette)).save(encoded, "JPEG", quality=90)
        (out / f"{path.stem}.jpg").write_bytes(encoded.getvalue())


def predict(engine: Engine, photos: list[Path], out: Path, confidence: bool) -> None:
    results = ResultFolder(out, engine.labels, overlays=True, confidence=confidence)
    segment_files([(path, path.stem) for path in photos], make_predictor(engine, 1024), results, stop)
    results.write_shares()


def stop(path: Path, error: Exception) -> None:
    raise SystemExit(f"{path}: {error}")


def in_turn(ways: dict[str, Callable[[], object]], rounds: int, photos: int) -> dict[str, Any]:
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            way()
            if number:  # the first round warms up
                spent[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    figures: dict[str, Any] = {}
    for index, figure in enumerate(("cpu_ms", "wall_ms")):
        own = {name: 1000 / photos * median(row[index] for row in rows) for name, rows in spent.items()}
        ratios = [one[index] / two[index] for one, two in zip(spent["loop"], spent["predict"], strict=True)]
        figures[figure] = {**{name: round(value, 2) for name, value in own.items()}, "ratio": round(median(ratios), 3)}
    return figures


if __name__ == "__main__":
    main()
