"""Scores of an engine on labeled photos: mIoU, boundary IoU, calibration error."""

from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from semseg_app.errors import UserError
from semseg_app.export.verification_set import Evidence, bounded, resized
from semseg_app.inference.engines.base import Engine
from semseg_app.metrics.boundary_iou import BoundaryIoU
from semseg_app.metrics.calibration import CalibrationError
from semseg_app.metrics.confusion import ConfusionMatrix


class Quality(NamedTuple):
    """Each of 1."""

    miou: float
    boundary_iou: float
    calibration_error: float


def score(engine: Engine, evidence: Evidence) -> Quality:
    """Segment every sample, each photo whole, and compare with its label. Progress goes to stderr."""
    confusion, boundary_iou = ConfusionMatrix(evidence.data.num_classes), BoundaryIoU(evidence.data.num_classes)
    calibration_error = CalibrationError()
    console = Console(stderr=True)
    title = f"{engine.kind} {engine.precision}"
    for sample in track(evidence.samples, title, console=console, transient=True, disable=not console.is_terminal):
        photo, label = evidence.data.read_image(sample), evidence.data.read_label(sample)
        if label.shape != photo.shape[:2]:
            raise UserError(f"{sample.label}: not the size of its photo; run `semseg check {evidence.data.root}`")
        size = bounded(photo)
        image, target = resized(photo, size), resized(label, size)
        (classes,), (confidence,) = engine.infer(image[None])
        confusion.add(classes, target)
        boundary_iou.add(classes, target)
        calibration_error.add(classes, confidence, target)
    scores = confusion.result()
    if not scores.pixels:
        raise UserError(f"{evidence.data.root}: every label pixel of {evidence.split} is ignored; run `semseg check`")
    return Quality(scores.miou, boundary_iou.result(), calibration_error.result())
