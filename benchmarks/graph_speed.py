"""What a class map costs: this source tree's exports in its engines against another tree's exports, run as it ran them.

    python benchmarks/graph_speed.py OTHER_TREE [--scratch FOLDER] [--only pidnet] [--rounds 15] [--json RESULT.json]

Each tree exports the models of MODELS by its own command line, on one thread; the processor time of that is in the
table. Then both answer one photo in turn in one process on one thread: the other tree's file whole, as its engines ran
it, and this tree's engine without the confidence. Figures are medians of processor time, and medians of the ratios
within the rounds. With --scratch, what a folder has from an earlier run is not made again.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import yaml
from export_speed import PRECISIONS, exported
from fitted_models import fitted_model
from PIL import Image

from semseg_app import machine
from semseg_app.artifact import read_manifest
from semseg_app.inference.engines.base import class_maps
from semseg_app.inference.engines.open import open_engine
from semseg_app.model_spec import ModelSpec
from semseg_app.synthetic import generate

MODELS: dict[str, tuple[ModelSpec, tuple[int, int], tuple[str, ...]]] = {
    "pidnet-19": (
        ModelSpec(architecture="pidnet", encoder="pidnet_s", num_classes=19, revision=1),
        (512, 1024),
        ("fp32", "int8"),
    ),
    "segformer-19": (
        ModelSpec(architecture="segformer", encoder="tu-mobilenetv3_small_100", num_classes=19),
        (512, 1024),
        ("fp32",),
    ),
    "deeplabv3plus-11": (
        ModelSpec(
            architecture="deeplabv3plus", encoder="tu-tf_efficientnet_lite0", decoder_channels=64, num_classes=11
        ),
        (360, 480),
        ("fp32", "int8"),
    ),
}
"""Name -> network, height and width of the photo, precisions."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other_tree", type=Path)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--only", default="", help="beginning of the models' names")
    parser.add_argument("--engines", default="onnxruntime,openvino")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    trees = {"other": arguments.other_tree.resolve(), "this": Path(__file__).resolve().parents[1]}
    with tempfile.TemporaryDirectory() as temporary:
        scratch = (arguments.scratch or Path(temporary)).resolve()
        scratch.mkdir(exist_ok=True)
        record = {"hardware": machine.hardware(), "versions": machine.versions(), "exports": [], "graphs": []}
        for name, (spec, size, precisions) in MODELS.items():
            if name.startswith(arguments.only):
                folders = {tree: scratch / f"{name}-{tree}" for tree in trees}
                record["exports"] += make(scratch, name, spec, precisions, trees)
                record["graphs"] += [
                    row | {"model": name, "photo": list(size[::-1])}
                    for row in compare(
                        folders, picture(scratch, size), precisions, arguments.engines.split(","), arguments.rounds
                    )
                ]
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def make(
    scratch: Path, name: str, spec: ModelSpec, precisions: tuple[str, ...], trees: dict[str, Path]
) -> list[dict[str, Any]]:
    """Both trees' exports of a model, and a row about each: processor seconds and verdict."""
    data = dataset(scratch, spec.num_classes)
    if not (trained := scratch / name).exists():
        fitted_model(trained, spec, data)
    rows = []
    for tree, path in trees.items():
        folder = scratch / f"{name}-{tree}"
        if not folder.exists():
            shutil.copytree(trained, folder)
        for precision in precisions:
            facts = folder / f"{precision}.json"
            if not facts.exists():
                seconds = exported(path, folder, precision, data)
                facts.write_text(json.dumps({"cpu_s": round(seconds, 1)}))
            entry = read_manifest(folder)["exports"].get(PRECISIONS[precision], {})
            row = {"model": name, "tree": tree, "precision": precision, **json.loads(facts.read_text())}
            rows.append(row | {"verdict": entry.get("verdict")})
            print(rows[-1], flush=True)
    return rows


def dataset(scratch: Path, classes: int) -> Path:
    """Generated streets of 360x480, whose description names so many classes."""
    folder = scratch / f"streets-{classes}"
    if not folder.exists():
        generate(folder, train=32, val=8, size=(360, 480))
        file = folder / "dataset.yaml"
        content = yaml.safe_load(file.read_text())
        missing = classes - len(content["classes"])
        content["classes"] += [f"absent {index}" for index in range(missing)]
        content["palette"] += [[0, 0, index] for index in range(missing)]
        file.write_text(yaml.safe_dump(content))
    return folder


def picture(scratch: Path, size: tuple[int, int]) -> np.ndarray:
    """A street that no head was fitted to, uint8 `[1, H, W, 3]`."""
    file = sorted(next(scratch.glob("streets-*")).glob("images/val/*"))[0]
    return np.asarray(Image.open(file).convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))[None]


def compare(
    folders: dict[str, Path], photo: np.ndarray, precisions: tuple[str, ...], engines: list[str], rounds: int
) -> list[dict[str, Any]]:
    """A row per precision and engine."""
    rows = []
    for precision in precisions:
        files = {tree: folder / PRECISIONS[precision] for tree, folder in folders.items()}
        for engine in engines:
            whole = whole_onnxruntime if engine == "onnxruntime" else whole_openvino
            calls = {"other": whole(files["other"], photo), **own_calls(files["this"], engine, photo)}
            times = in_turn(calls, rounds)
            row = {
                "precision": precision,
                "engine": engine,
                **{f"{name} ms": round(1000 * statistics.median(own), 2) for name, own in times.items()},
                "ratio": ratio(times["other"], times["this"]),
                "ratio with confidence": ratio(times["other"], times["with confidence"]),
                "mixed cells": mixed(np.asarray(calls["this"]())[0]),
            }
            rows.append(row)
            print(folders["this"].name, row, flush=True)
    return rows


def own_calls(file: Path, engine: str, photo: np.ndarray) -> dict[str, Callable[[], object]]:
    """This tree's engine, without and with the confidence."""
    own = open_engine(file, engine, "cpu", 1, force=True)
    return {"this": lambda: class_maps(own, photo), "with confidence": lambda: own.infer(photo)}


def ratio(before: list[float], after: list[float]) -> float:
    return round(statistics.median(one / other for one, other in zip(before, after, strict=True)), 3)


def mixed(classes: np.ndarray) -> float:
    """Fraction of the blocks of 8x8 pixels that show more than one class."""
    height, width = (side // 8 * 8 for side in classes.shape)
    blocks = classes[:height, :width].reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2).reshape(-1, 64)
    return round(float((blocks != blocks[:, :1]).any(axis=1).mean()), 3)


def whole_onnxruntime(file: Path, photo: np.ndarray) -> Callable[[], object]:
    """The file to its end, with the other tree's session options."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["classes", "confidence"], {"images": photo})


def whole_openvino(file: Path, photo: np.ndarray) -> Callable[[], object]:
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    request = openvino.Core().compile_model(str(file), "CPU", options).create_infer_request()
    return lambda: request.infer({"images": photo})


def in_turn(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each call, a number per round; a call before each brings its weights into the caches."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            call()
            start = time.process_time()
            call()
            if number:
                seconds[name].append(time.process_time() - start)
    return seconds


if __name__ == "__main__":
    main()
