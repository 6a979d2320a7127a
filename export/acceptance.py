"""The gate: acceptance limits on how far an exported file may be from the trained network, and why one is refused."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from semseg_app.errors import UserError
from semseg_app.export.verification_set import VerificationSet, bounded, resized
from semseg_app.inference.engines.base import Engine
from semseg_app.metrics.scores import Scorer
from semseg_app.progress import tracked

SCORES = ("miou", "boundary_iou", "calibration_error")
"""The metrics that the gate limits, rows of metrics/scores.py."""


class Gate(NamedTuple):
    """Limits. Shares and scores are of 1."""

    agreement: float
    """Lowest share of pixels with the same class, at every size and batch size."""
    confidence_difference: int
    """Largest difference in confidence, of 255."""
    miou_fall: float
    """By how much mIoU may be below that of the trained network."""
    miou_rise: float
    """And above it: what merely computes in another order does not get better."""
    boundary_iou_fall: float
    calibration_error_rise: float


GATES = {
    # The same arithmetic in another order: only pixels whose two best classes tie within float error may differ.
    "fp32": Gate(0.9999, 2, 0.001, 0.001, 0.002, 0.001),
    "fp16": Gate(0.999, 12, 0.001, 0.001, 0.002, 0.005),
    # A tenth of the pixels is a defect whatever their labels say; labels draw the line.
    "int8": Gate(0.9, 255, 0.007, 1.0, 0.015, 0.01),
}


def reasons_of_row(row: Mapping[str, Any], gate: Gate) -> list[str]:
    """What a row of `compare` is refused for: at most one line."""
    where = f"at {row['width']}x{row['height']}, batch {row['batch']}"
    if "error" in row:
        return [f"{where}, it does not run: {row['error']}"]
    if row["agreement"] < gate.agreement:
        return [f"{where}, {row['agreement']:.4%} of the pixels agree, below {gate.agreement:.2%}"]
    if row["confidence_difference"] > gate.confidence_difference:
        difference, limit = row["confidence_difference"], gate.confidence_difference
        return [f"{where}, confidence is off by {difference} of 255, above {limit}"]
    return []


def score(engine: Engine, photos: VerificationSet) -> dict[str, float]:
    """Each of `SCORES`, of 1: every sample segmented whole and compared with its label. Progress goes to stderr."""
    scorer = Scorer(photos.data.num_classes, SCORES)
    for sample in tracked(photos.samples, f"scoring {engine.kind} {engine.precision}", len(photos.samples)):
        photo, label = photos.data.read_pair(sample)
        size = bounded(photo)
        (classes,), (confidence,) = engine.infer(resized(photo, size)[None])
        scorer.add(classes, resized(label, size), confidence)
    scores = scorer.result()
    if not scores.pixels:
        raise UserError(f"{photos.data.root}: every label pixel of {photos.split} is ignored; run `semseg check`")
    return scores.values


def reasons_of_scores(trained: Mapping[str, float], exported: Mapping[str, float], gate: Gate) -> list[str]:
    """What scores on labeled photos are refused for."""
    reasons = []
    miou = exported["miou"] - trained["miou"]
    if not -gate.miou_fall <= miou <= gate.miou_rise:
        reasons.append(f"mIoU changes by {100 * miou:+.2f} points")
    boundary_iou = exported["boundary_iou"] - trained["boundary_iou"]
    if boundary_iou < -gate.boundary_iou_fall:
        reasons.append(f"boundary IoU changes by {100 * boundary_iou:+.2f} points")
    calibration_error = exported["calibration_error"] - trained["calibration_error"]
    if calibration_error > gate.calibration_error_rise:
        reasons.append(f"calibration error changes by {100 * calibration_error:+.2f} points")
    return reasons


def reasons_of_layers(precision: str, float_layers: Collection[str], found: Mapping[str, str]) -> list[str]:
    """What the precisions of a graph's layers are refused for: they must be what the file says of itself.

    Args:
        precision: of the file.
        float_layers: layers that are fp32 all the same.
        found: layer -> its precision, as the graph's types say.
    """
    wrong = {name: kind for name, kind in found.items() if kind != ("fp32" if name in float_layers else precision)}
    if wrong:
        name, kind = next(iter(wrong.items()))
        claim = "fp32" if name in float_layers else precision
        return [f"{len(wrong)} of {len(found)} layers are not what the file says: {name} is {kind}, not {claim}"]
    if found and precision not in found.values():
        return [f"no layer computes in {precision}, though the file says so"]
    return []
