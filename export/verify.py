"""Proof that an exported file is the trained network: both run on the same photos, through the engines that serve.

Three sizes, none of them the one that the exporter saw, and two batch sizes; with a dataset, scores of both; the
precision of every layer, read from the file; and that our engines read the logits as the file itself does. Past the
gate's limits the manifest says "rejected", and what serves or publishes a model folder goes by that.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from semseg_app import artifact, machine
from semseg_app.data.listing import evenly_spaced
from semseg_app.errors import UserError
from semseg_app.export.acceptance import GATES, Gate, reasons_of_layers, reasons_of_row, reasons_of_scores, score
from semseg_app.export.decoding import compare_decoding, reasons_of_decoding
from semseg_app.export.graph import layer_precisions
from semseg_app.export.onnx import metadata_of
from semseg_app.export.steps import LOG, step
from semseg_app.export.verification_set import VerificationSet, bounded, generated_photos, resized
from semseg_app.files import sha256
from semseg_app.inference.engines.base import Engine
from semseg_app.inference.engines.onnxruntime import OnnxRuntimeEngine, open_graph
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.engines.torch import open_model_folder

SIZES = ((127, 131), (256, 192))
"""Height and width: two primes, and an upright one. The photos' own size is the third."""
BATCH_SIZES = (1, 3)
PHOTOS = 3
TIMED_RUNS = 10


def verify(
    folder: Path,
    exported_file: Path,
    verification: VerificationSet | None = None,
    gate: Gate | None = None,
    device: str = "cpu",
    trained_scores: Mapping[str, float] | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Compare an exported file with the weights of its model folder.

    Args:
        folder: the model folder.
        exported_file: the .onnx file.
        verification: labeled samples for photos and scores; None = generated photos and no scores.
        gate: the limits; None = those of the file's precision.
        device: where the exported file runs: "cpu" or "cuda". The trained network runs on the CPU, in fp32.
        trained_scores: what `score` says of the trained network on these samples, where that is known already.
        threads: CPU threads of both; None = `machine.threads`.

    Returns the manifest's entry: "verdict" is "passed" or "rejected", and then "reasons" is not empty. UserError for an
    int8 file without verification: how much it lost shows on labels alone.
    """
    threads = threads or machine.threads()
    exported = open_engine(exported_file, "onnxruntime", device, threads, force=True)
    if exported.precision == "int8" and verification is None:
        raise UserError(f"{exported_file}: what int8 costs shows on labeled photos alone; add --data DATASET")
    # What other programs get of the file, and the plain reading of the logits that ours is compared with.
    whole = open_graph(exported_file, device, threads, whole=True)
    trained = open_model_folder(folder, "cpu", threads, whole=True)
    gate = gate or GATES[exported.precision]
    if verification:
        photos = [verification.data.read_image(sample) for sample in evenly_spaced(verification.samples, PHOTOS)]
    else:
        photos = generated_photos(PHOTOS)
    own_size = bounded(photos[0])
    by_size = compare(trained, whole, photos, [*SIZES, own_size], BATCH_SIZES)
    model = onnx_ir.load(exported_file)
    float_layers = metadata_of(model).get("float_layers", [])
    layers = layer_precisions(model.graph)
    reasons = [reason for row in by_size for reason in reasons_of_row(row, gate)]
    if exported.labels != trained.labels:
        reasons.append(f"its classes or palette are not those of {artifact.CONFIG}")
    source, weights = metadata_of(model).get("source_sha256"), sha256(folder / artifact.WEIGHTS)
    if source not in (None, weights):
        reasons.append(f"it was made of other weights than {artifact.WEIGHTS}; export it again")
    reasons += reasons_of_layers(exported.precision, float_layers, layers)
    entry: dict[str, Any] = {
        "engine": exported.kind,
        "device": exported.device,
        "precision": exported.precision,
        "layers": {kind: list(layers.values()).count(kind) for kind in sorted(set(layers.values()))},
        "float_layers": float_layers,
        "opset": model.graph.opset_imports[""],
        "agreement": min(row["agreement"] for row in by_size),
        "confidence_difference": max(row["confidence_difference"] for row in by_size),
        "photos": f"{verification.data.info.name} {verification.split}" if verification else "generated",
        "by_size": by_size,
    }
    if not any("error" in row for row in by_size):
        if isinstance(exported, OnnxRuntimeEngine) and exported.gives_logits:
            entry["decoding"] = compare_decoding(exported, whole, photos, [*SIZES, own_size])
            reasons += reasons_of_decoding(entry["decoding"])
        entry["latency_ms"] = measure_latency(exported, resized(photos[0], own_size), threads)
        if verification:
            with step(f"scoring {exported_file} and the trained network on {len(verification.samples)} photos"):
                before, after = trained_scores or score(trained, verification), score(exported, verification)
            entry |= side_by_side(before, after)
            entry["miou"]["images"] = len(verification.samples)
            reasons += reasons_of_scores(before, after, gate)
    return {
        "verdict": "rejected" if reasons else "passed",
        "reasons": reasons,
        "gate": gate._asdict(),
        **entry,
        "sha256": sha256(exported_file),
        "source_sha256": weights,
        "versions": {**machine.versions(), "onnx": version("onnx")},
        "hardware": machine.hardware(),
    }


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
        LOG.info("comparing %s %s with the trained network at %dx%d", exported.kind, exported.precision, *size[::-1])
        images = np.stack([resized(photo, size) for photo in photos])
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


def measure_latency(engine: Engine, photo: np.ndarray, threads: int) -> dict[str, Any]:
    """Median wall time in milliseconds of one photo uint8 `[H, W, 3]`, after two runs to warm up."""
    times = []
    for _ in range(2 + TIMED_RUNS):
        start = time.perf_counter()
        engine.infer(photo[None])
        times.append(1000 * (time.perf_counter() - start))
    median = statistics.median(times[2:])
    return {"median": median, "height": photo.shape[0], "width": photo.shape[1], "batch": 1, "threads": threads}


def side_by_side(trained: Mapping[str, float], exported: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Each score of both networks, and the difference."""
    return {
        name: {"trained": before, "exported": exported[name], "difference": exported[name] - before}
        for name, before in trained.items()
    }
