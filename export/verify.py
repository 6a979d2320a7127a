"""Proof that an exported file is the trained network: both run on the same photos, through the engines that serve.

Three sizes, none of them the one that the exporter saw, and two batch sizes; with a dataset, the mIoU of both. Past the
gate's limits the manifest says "rejected", and what publishes a model folder goes by that.
"""

import hashlib
import os
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnx
import onnxruntime
from PIL import Image
from rich.console import Console
from rich.progress import track

from semseg_app import artifact
from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.errors import UserError
from semseg_app.inference.engines import Engine, open_engine
from semseg_app.metrics import ConfusionMatrix

SIZES = ((127, 131), (256, 192))
"""Height and width: two primes, and an upright one. The photos' own size is the third."""
BATCH_SIZES = (1, 3)
PHOTOS = 3
GENERATED_SIZE = (360, 480)
LONGEST_SIDE = 2048
"""Larger photos are compared and timed at this size: whole, they would not fit into memory."""
TIMED_RUNS = 10

T = TypeVar("T")


class Gate(NamedTuple):
    """How far an exported file may be from the trained network."""

    agreement: float
    """Lowest share of pixels with the same class, at every size and batch size."""
    confidence_difference: int
    """Largest difference in confidence, of 255."""
    miou_difference: float
    """Largest difference in mIoU, of 1."""


FP32_GATE = Gate(agreement=0.9999, confidence_difference=2, miou_difference=0.001)
"""The same arithmetic in another order: only pixels whose two best classes tie within float error may differ."""


class Evidence(NamedTuple):
    """Labelled samples to compare on."""

    data: SegmentationData
    split: str
    samples: list[Sample]


def gather_evidence(labels: artifact.LabelSpace, data: SegmentationData, split: str, limit: int) -> Evidence:
    """At most `limit` labelled samples, evenly spaced over a split. UserError when the data is not of these classes."""
    if data.info.classes != labels.classes:
        raise UserError(
            f"{data.root}: its classes ({', '.join(data.info.classes)}) are not those of the model "
            f"({', '.join(labels.classes)}); give the dataset that it was trained for"
        )
    samples = [sample for sample in data.samples(split) if sample.label]
    if not samples:
        raise UserError(f"{data.root}: {split} has no labels; give --split one that has")
    return Evidence(data, split, evenly_spaced(samples, limit))


def verify(
    folder: Path, exported_file: Path, evidence: Evidence | None = None, gate: Gate = FP32_GATE
) -> dict[str, Any]:
    """Compare an exported file with the weights of its model folder.

    Args:
        folder: the model folder.
        exported_file: the .onnx file.
        evidence: samples for photos and mIoU; None = generated photos and no mIoU.
        gate: the limits.

    Returns the manifest's entry: "verdict" is "passed" or "rejected", and then "reasons" is not empty.
    """
    threads = os.cpu_count() or 1
    trained = open_engine(folder, kind="torch", device="cpu", threads=threads)
    exported = open_engine(exported_file, kind="onnxruntime", device="cpu", threads=threads)
    if evidence:
        photos = [evidence.data.read_image(sample) for sample in evenly_spaced(evidence.samples, PHOTOS)]
    else:
        photos = generated_photos(PHOTOS)
    own_size = _bounded(photos[0])
    by_size = compare(trained, exported, photos, [*SIZES, own_size], BATCH_SIZES)
    reasons = [reason for row in by_size if (reason := _too_far(row, gate))]
    if exported.labels != trained.labels:
        reasons.append(f"its classes or palette are not those of {artifact.CONFIG}")
    entry: dict[str, Any] = {
        "engine": exported.kind,
        "device": exported.device,
        "precision": exported.precision,
        "opset": next(opset.version for opset in onnx.load(exported_file).opset_import if not opset.domain),
        "agreement": min(row["agreement"] for row in by_size),
        "confidence_difference": max(row["confidence_difference"] for row in by_size),
        "photos": f"{evidence.data.info.name} {evidence.split}" if evidence else "generated",
        "by_size": by_size,
    }
    if not any("error" in row for row in by_size):
        entry["latency_ms"] = measure_latency(exported, _resized(photos[0], own_size), threads)
        if evidence:
            entry["miou"] = compare_miou(trained, exported, evidence)
            if abs(entry["miou"]["difference"]) > gate.miou_difference:
                reasons.append(f"mIoU changes by {100 * entry['miou']['difference']:+.2f} points")
    return {
        "verdict": "rejected" if reasons else "passed",
        "reasons": reasons,
        "gate": gate._asdict(),
        **entry,
        "sha256": _sha256(exported_file),
        "source_sha256": _sha256(folder / artifact.WEIGHTS),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("semseg-app", "torch", "onnx")},
            "onnxruntime": onnxruntime.__version__,
        },
        "hardware": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()},
    }


def record(folder: Path, exported_file: Path, entry: dict[str, Any]) -> None:
    """Put what `verify` found into the model folder's manifest.json; entries of other files stay."""
    manifest = {"format_version": 1, "exports": {}, **artifact.read_manifest(folder)}
    manifest["exports"][exported_file.relative_to(folder).as_posix()] = entry
    artifact.write_manifest(folder, manifest)


def compare(
    trained: Engine,
    exported: Engine,
    photos: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, int]],
    batch_sizes: Sequence[int],
) -> list[dict[str, Any]]:
    """Run both engines on the photos at every size, the exported one in batches. One row a size and batch size.

    The trained network sees one photo at a time, so that an export which mixes the images of a batch is found out too.
    A row has height, width, batch, agreement (share of pixels with the same class) and confidence_difference (largest,
    of 255), and "error" when the exported file does not run there.
    """
    rows: list[dict[str, Any]] = []
    for size in sizes:
        images = np.stack([_resized(photo, size) for photo in photos])
        expected = [trained.infer(image[None]) for image in images]
        classes = np.concatenate([prediction.classes for prediction in expected])
        confidence = np.concatenate([prediction.confidence for prediction in expected]).astype(np.int16)
        for batch in batch_sizes:
            row: dict[str, Any] = {"height": size[0], "width": size[1], "batch": batch}
            try:
                found = [exported.infer(images[start : start + batch]) for start in range(0, len(images), batch)]
                found_classes = np.concatenate([prediction.classes for prediction in found])
                difference = np.concatenate([prediction.confidence for prediction in found]) - confidence
                row["agreement"] = float((found_classes == classes).mean())
                row["confidence_difference"] = int(np.abs(difference).max())
            except Exception as error:  # ONNX Runtime's errors share no base, and each of them means: it does not run
                row |= {"agreement": 0.0, "confidence_difference": 255, "error": " ".join(str(error).split())}
            rows.append(row)
    return rows


def compare_miou(trained: Engine, exported: Engine, evidence: Evidence) -> dict[str, Any]:
    """mIoU of both engines on the samples, each photo whole. Progress goes to stderr."""
    matrices = [ConfusionMatrix(evidence.data.num_classes) for _ in (trained, exported)]
    console = Console(stderr=True)
    for sample in track(evidence.samples, "mIoU", console=console, transient=True, disable=not console.is_terminal):
        photo, label = evidence.data.read_image(sample), evidence.data.read_label(sample)
        if label.shape != photo.shape[:2]:
            raise UserError(f"{sample.label}: not the size of its photo; run `semseg check {evidence.data.root}`")
        size = _bounded(photo)
        image, target = _resized(photo, size), _resized(label, size)
        for engine, matrix in zip((trained, exported), matrices, strict=True):
            matrix.add(engine.infer(image[None]).classes[0], target)
    before, after = (matrix.result() for matrix in matrices)
    if not before.pixels:
        raise UserError(f"{evidence.data.root}: every label pixel of {evidence.split} is ignored; run `semseg check`")
    return {
        "trained": before.miou,
        "exported": after.miou,
        "difference": after.miou - before.miou,
        "images": len(evidence.samples),
    }


def measure_latency(engine: Engine, photo: np.ndarray, threads: int) -> dict[str, Any]:
    """Median wall time in milliseconds of one photo uint8 `[H, W, 3]`, after two runs to warm up."""
    times = []
    for _ in range(2 + TIMED_RUNS):
        start = time.perf_counter()
        engine.infer(photo[None])
        times.append(1000 * (time.perf_counter() - start))
    median = statistics.median(times[2:])
    return {"median": median, "height": photo.shape[0], "width": photo.shape[1], "batch": 1, "threads": threads}


def generated_photos(count: int) -> list[np.ndarray]:
    """Photos uint8 `[360, 480, 3]` with structure at every scale and noise on top, always the same ones."""
    height, width = GENERATED_SIZE
    random = np.random.default_rng(0)
    photos = []
    for _ in range(count):
        photo = random.normal(0, 8, (height, width, 3))
        for cells in (2, 5, 16, 48):
            grid = random.integers(0, 256, (cells, cells, 3), np.uint8)
            # Blocks with edges from the coarse grids, soft texture from the fine ones.
            filter = Image.Resampling.NEAREST if cells < 16 else Image.Resampling.BICUBIC
            photo += np.asarray(Image.fromarray(grid).resize((width, height), filter)) / 4
        photos.append(photo.clip(0, 255).astype(np.uint8))
    return photos


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, spread over the whole sequence."""
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, min(count, len(items)))]


def _too_far(row: dict[str, Any], gate: Gate) -> str | None:
    where = f"at {row['width']}x{row['height']}, batch {row['batch']}"
    if "error" in row:
        return f"{where}, it does not run: {row['error']}"
    if row["agreement"] < gate.agreement:
        return f"{where}, {row['agreement']:.4%} of the pixels agree, below {gate.agreement:.2%}"
    if row["confidence_difference"] > gate.confidence_difference:
        return (
            f"{where}, confidence is off by {row['confidence_difference']} of 255, above {gate.confidence_difference}"
        )
    return None


def _bounded(photo: np.ndarray) -> tuple[int, int]:
    """Height and width of a photo, scaled down to LONGEST_SIDE where it is larger."""
    height, width = photo.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A photo [H, W, 3] (bilinear) or a label [H, W] (nearest) at another size."""
    filter = Image.Resampling.BILINEAR if pixels.ndim == 3 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), filter))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())
