"""From a model folder to a verified file of any kind: what is made from what, and what is verified when.

fp32 comes first. The other precisions are made from it once it has passed. Engines, a page for browsers and a Triton
repository are made from a graph that has passed.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from semseg_app import machine
from semseg_app.artifact import check_weights, manifest_entry, read_config
from semseg_app.export.acceptance import GATES, reasons_of_scores, score
from semseg_app.export.fp16 import export_fp16
from semseg_app.export.int8 import Calibration, export_int8
from semseg_app.export.manifest import has_passed, record
from semseg_app.export.onnx import OPSET, export_onnx
from semseg_app.export.steps import LOG, step
from semseg_app.export.tensorrt import export_tensorrt
from semseg_app.export.tensorrt.buckets import Buckets
from semseg_app.export.tensorrt.verify import verify_engine
from semseg_app.export.verification_set import (
    ExportData,
    VerificationSet,
    calibration_photos,
    check_data,
    generated_photos,
)
from semseg_app.export.verify import PHOTOS, verify
from semseg_app.inference.engines.base import GRAPHS
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.engines.plans import Binding

FEW_PHOTOS = 8
"""Fewer to calibrate on are worth a warning."""
Entry = dict[str, Any]
"""What the manifest says of one exported file."""


def export_verified(
    folder: Path, precision: str, dataset: ExportData | None = None, opset: int | None = None
) -> Iterator[tuple[Path, Entry]]:
    """Export, verify, record; yield each file that was made and its entry in the manifest, the requested one last.

    A reduced precision is made from the folder's fp32 graph, which is made first where it is missing, was made of other
    weights or has never passed: what is wrong with the graph itself is found there, to a ten-thousandth of the pixels.
    When it is rejected, nothing else is yielded.

    Args:
        folder: the model folder.
        precision: "fp32", "fp16" or "int8".
        dataset: labeled photos to verify on, and photos to calibrate on; None = generated photos and no scores.
        opset: of the graph; None = the newest that is proven everywhere. A folder's fp32 graph of another one is made
            anew.

    UserError for int8 without a dataset, for a dataset of other classes, and for weights that are not those which the
    folder was saved with.
    """
    check_weights(folder)
    verification = check_data(folder, precision, dataset)
    graph = folder / GRAPHS["fp32"]
    recorded = manifest_entry(graph).get("opset")
    if precision == "fp32" or not has_passed(folder, graph) or opset not in (None, recorded):
        yield graph, (entry := _verified(folder, export_onnx(folder, opset or OPSET), verification))
        if precision == "fp32" or entry["verdict"] == "rejected":
            return
    if precision == "fp16":
        calibration = _calibration(dataset).photos if dataset else generated_photos(PHOTOS)
        with step("fp16: looking for values that half precision cannot hold"):
            file = export_fp16(folder, graph, calibration)
        yield file, _verified(folder, file, verification)
        return
    assert dataset is not None
    assert verification is not None
    samples, threads = verification, machine.threads()
    with step(f"int8: scoring the trained network on {len(samples.samples)} photos"):
        before = score(open_engine(folder, "torch", "cpu", threads), samples)

    def passes(candidate: Path) -> bool:
        with step(f"int8: scoring a candidate on {len(samples.samples)} photos"):
            after = score(open_engine(candidate, "onnxruntime", "cpu", threads), samples)
        return not reasons_of_scores(before, after, GATES["int8"])

    file = export_int8(folder, graph, _calibration(dataset), passes)
    yield file, _verified(folder, file, verification, before)


def export_engine(
    folder: Path,
    precision: str,
    binding: Binding,
    buckets: Buckets,
    batch: int,
    capabilities: Sequence[str] = (),
    dataset: ExportData | None = None,
) -> tuple[Path, Entry]:
    """Build the TensorRT engine of a graph that has passed, verify it as far as this machine can, record it.

    Args: those of `export_tensorrt`. Returns the engine and its entry in the manifest.
    """
    with step("building the TensorRT engine"):
        engine = export_tensorrt(folder, folder / GRAPHS[precision], buckets, batch, binding, capabilities)
    verification = dataset.verification(read_config(folder).labels) if dataset else None
    entry = verify_engine(folder, engine, verification)
    record(folder, engine, entry)
    return engine, entry


def _calibration(dataset: ExportData) -> Calibration:
    """Photos of the training split where the dataset has one: the scores are measured on photos that were not seen."""
    data = dataset.data
    split = dataset.calibration_split or ("train" if "train" in data.split_names() else dataset.split)
    photos = calibration_photos(data, split, dataset.calibration_images)
    if len(photos) < FEW_PHOTOS:
        LOG.warning(
            "few photos to calibrate on (%d of %s): values that other photos reach stay unseen; name a split of more "
            "photos with --calibration-split",
            len(photos),
            split,
        )
    return Calibration(photos, f"{data.info.name} {split}", dataset.calibration_method)


def _verified(
    folder: Path, file: Path, verification: VerificationSet | None, trained_scores: dict[str, float] | None = None
) -> Entry:
    entry = verify(folder, file, verification, trained_scores=trained_scores)
    record(folder, file, entry)
    return entry
