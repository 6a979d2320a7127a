"""From a model folder to a verified file of any precision: fp32 first, the others made from it once it has passed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semseg_app import machine
from semseg_app.artifact import manifest_entry
from semseg_app.errors import UserError
from semseg_app.export.acceptance import GATES, reasons_of_scores, score
from semseg_app.export.fp16 import export_fp16
from semseg_app.export.int8 import Calibration, export_int8
from semseg_app.export.onnx import OPSET, export_onnx
from semseg_app.export.verification_set import VerificationSet, generated_photos
from semseg_app.export.verify import PHOTOS, has_passed, record, verify
from semseg_app.inference.engines.base import GRAPHS
from semseg_app.inference.engines.open import open_engine


def export_verified(
    folder: Path,
    precision: str,
    verification: VerificationSet | None = None,
    calibration: Calibration | None = None,
    opset: int | None = None,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Export, verify, record; yield each file that was made and its entry in the manifest, the asked one last.

    A reduced precision is made from the folder's fp32 graph, which is made first where it is missing, of other weights
    or never passed: what is wrong with the graph itself is found there, to a ten-thousandth of the pixels. Where it is
    rejected, it is all that is yielded.

    Args:
        folder: the model folder.
        precision: "fp32", "fp16" or "int8".
        verification: labeled samples to verify on; None = generated photos and no scores.
        calibration: photos for the ranges of activations; None = generated ones.
        opset: of the graph; None = the newest that is proven everywhere. A folder's fp32 graph of another one is made
            anew.

    UserError for int8 without verification or calibration.
    """
    if precision == "int8" and (verification is None or calibration is None):
        raise UserError(
            f"{folder}: int8 is calibrated on photos of the kind that it will see and judged by their labels; "
            "add --data DATASET"
        )
    graph = folder / GRAPHS["fp32"]
    recorded = manifest_entry(graph).get("opset")
    if precision == "fp32" or not has_passed(folder, graph) or opset not in (None, recorded):
        entry = verify(folder, export_onnx(folder, opset or OPSET), verification)
        record(folder, graph, entry)
        yield graph, entry
        if precision == "fp32" or entry["verdict"] == "rejected":
            return
    trained_scores = None
    if precision == "fp16":
        file = export_fp16(folder, graph, calibration.photos if calibration else generated_photos(PHOTOS))
    else:
        assert verification is not None
        assert calibration is not None
        samples, threads = verification, machine.threads()
        before = trained_scores = score(open_engine(folder, "torch", "cpu", threads), samples)

        def passes(candidate: Path) -> bool:
            found = score(open_engine(candidate, "onnxruntime", "cpu", threads), samples)
            return not reasons_of_scores(before, found, GATES["int8"])

        file = export_int8(folder, graph, calibration, passes)
    entry = verify(folder, file, verification, trained_scores=trained_scores)
    record(folder, file, entry)
    yield file, entry
