"""Write a teacher's confident predictions as a folder of pseudo labels (data/pseudo_label_folder.py).

Images are segmented once each, at their own size and one scale, without mirroring; what is longer than 1024 pixels in
tiles. Every mask carries its own counts (as text inside the PNG), so an interrupted folder can be finished without
predicting anything twice. No torch here.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
from PIL import Image

from semseg_app.artifact import WEIGHTS
from semseg_app.data.dataset import DECODING_ERRORS, Sample, SegmentationData
from semseg_app.data.pseudo_label_folder import (
    EDGE_DISTANCE,
    MANIFEST,
    Coverage,
    Manifest,
    mask_path,
    read_if_any,
    write_manifest,
)
from semseg_app.errors import UserError
from semseg_app.files import atomic_file
from semseg_app.inference.class_mapping import MappedEngine
from semseg_app.inference.engines.base import GRAPH, Engine, Prediction
from semseg_app.inference.evaluate import check_classes
from semseg_app.inference.predictor import Predictor
from semseg_app.inference.teacher_lineage import teacher_lineage, weights_of
from semseg_app.labels import IGNORE
from semseg_app.masks import indexed_png

COUNTS = "semseg_app.counts"
"""Text chunk of a mask's PNG: JSON `[4, C]`, rows as in `count_pixels`."""


def write_pseudo_labels(
    model: Path,
    engine: Engine,
    data: SegmentationData,
    split: str,
    folder: Path,
    threshold: float = 0.5,
    on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Predict every image of a split or list and write a folder of pseudo labels.

    Args:
        model: what `engine` was opened from: a model folder, a folder that transformers saved or an .onnx file.
        engine: the teacher; its classes must be those of the data, in the same order, or mapped to them.
        data: where the images are.
        split: a split or a list of it.
        folder: new, empty, or left unfinished by the same call: then masks that are there are kept.
        threshold: a pixel keeps its class where the largest probability is above this (read in steps of 1/255, the
            resolution of an engine's confidence).
        on_progress: called with (images done, images in all).

    Raises:
        UserError: other classes; a folder with other contents, or made by another teacher or of other images.
    """
    check_classes(engine.labels.classes, data.info.classes)
    samples = data.samples(split)
    if not samples:
        raise UserError(f"{data.root}: {split!r} holds no images")
    if not 0 <= threshold < 1:
        raise UserError(f"threshold {threshold}: a probability, from 0 to below 1")
    manifest = Manifest(
        teacher=engine.name,
        weights=weights_of(model, _file(model, engine)),
        teacher_classes=engine.mapping.names if isinstance(engine, MappedEngine) else None,
        threshold=threshold,
        dataset=data.info.name,
        split=split,
        fingerprint=data.fingerprint(samples),
        images=len(samples),
        classes=data.info.classes,
        lineage=teacher_lineage(model, "pseudo labels", _file(model, engine)),
    )
    paths = [mask_path(folder, data, sample) for sample in samples]
    _claim(folder, manifest)
    total = np.zeros((4, data.num_classes), np.int64)
    missing: list[tuple[Sample, Path]] = []
    for sample, path in zip(samples, paths, strict=True):
        counts = _counts_in(path, data.num_classes)
        if counts is None:
            missing.append((sample, path))
        else:
            total += counts
    done = len(samples) - len(missing)
    predictor = Predictor(engine, batch_size=1 if engine.device == "cpu" else 4)
    waiting: deque[Path] = deque()

    def images() -> Iterator[np.ndarray]:
        for sample, path in missing:
            waiting.append(path)
            yield data.read_image(sample)

    for prediction in predictor.predict_many(images()):
        kept = prediction.confidence > 255 * threshold
        counts = count_pixels(prediction, kept, data.num_classes)
        mask = np.where(kept, prediction.classes, np.uint8(IGNORE))
        with atomic_file(waiting.popleft()) as part:
            part.write_bytes(indexed_png(mask, data.info.palette, {COUNTS: json.dumps(counts.tolist())}))
        total += counts
        done += 1
        if on_progress:
            on_progress(done, len(samples))
    finished = manifest.model_copy(update={"coverage": _coverage(total, data.info.classes)})
    write_manifest(folder, finished)
    return finished


def count_pixels(prediction: Prediction, kept: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 `[4, C]`, pixels of each predicted class: all inside, kept inside, all near edges, kept near edges."""
    kind = 2 * near_edges(prediction.classes).astype(np.int64) + kept  # kept ones are added to both rows below
    counts = np.bincount((kind * num_classes + prediction.classes).ravel(), minlength=4 * num_classes)
    counts = counts.reshape(4, num_classes)
    counts[0] += counts[1]
    counts[2] += counts[3]
    return counts


def near_edges(classes: np.ndarray, distance: int = EDGE_DISTANCE) -> np.ndarray:
    """bool `[H, W]`: whether another class lies at most `distance` rows and columns away."""
    highest, lowest = _around(classes, distance, np.maximum), _around(classes, distance, np.minimum)
    differs: np.ndarray = highest != lowest
    return differs


def _around(values: np.ndarray, distance: int, pick: np.ufunc) -> np.ndarray:
    """The maximum or minimum over the square of `2 * distance + 1` pixels around each, one axis after the other."""
    for _ in range(2):
        padded = np.pad(values, ((distance, distance), (0, 0)), mode="edge")  # beyond the border nothing new appears
        values = reduce(pick, (padded[start : start + len(values)] for start in range(2 * distance + 1))).T
    return values


def _coverage(total: np.ndarray, classes: Sequence[str]) -> Coverage:
    (inside, inside_kept), (edges, edges_kept) = total[:2], total[2:]
    everything, kept = inside + edges, inside_kept + edges_kept
    return Coverage(
        overall=round(float(kept.sum() / everything.sum()), 6),
        by_class={name: _fraction(*pair) for name, *pair in zip(classes, kept, everything, strict=True)},
        near_edges=_fraction(edges_kept.sum(), edges.sum()),
        inside=_fraction(inside_kept.sum(), inside.sum()),
    )


def _fraction(part: np.int64, whole: np.int64) -> float | None:
    return round(float(part / whole), 6) if whole else None


def _claim(folder: Path, manifest: Manifest) -> None:
    """Make the folder this manifest's, or find that it is already. UserError when it is somebody else's."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; pseudo labels need a folder")
    before = read_if_any(folder)
    if before is None:
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(f"{folder}: holds other files and no {MANIFEST}; choose a new or empty folder")
        write_manifest(folder, manifest)
        return
    later = {"coverage", "lineage"}
    was, now = before.model_dump(exclude=later), manifest.model_dump(exclude=later)
    other = next((key for key in ("weights", *now) if was[key] != now[key]), None)
    if other == "weights":
        raise UserError(
            f"{folder}: holds the pseudo labels of another teacher ({before.teacher}, weights {before.weights[:12]}; "
            f"this one is {manifest.teacher}, {manifest.weights[:12]}); choose another folder, or delete this one"
        )
    if other is not None:
        raise UserError(
            f"{folder}: was made with {other} {was[other]}, not {now[other]}; choose another folder, or delete this one"
        )


def _counts_in(path: Path, num_classes: int) -> np.ndarray | None:
    """The counts that a mask carries; None where there is no such mask, or it is damaged."""
    try:
        with Image.open(path) as mask:
            text = mask.info.get(COUNTS)
    except DECODING_ERRORS:  # a missing file is one of them
        return None
    return None if text is None else np.array(json.loads(text), np.int64).reshape(4, num_classes)


def _file(model: Path, engine: Engine) -> Path | None:
    """The file of a model folder that the engine runs; None where that is all of the model."""
    if not model.is_dir() or engine.kind == "transformers":
        return None
    return model / (WEIGHTS if engine.kind == "torch" else GRAPH)
