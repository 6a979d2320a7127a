"""A folder of pseudo labels: what a teacher was sure of, as masks for a student to learn from.

FOLDER/<stem>.png      indexed mask: class indices of the dataset, 255 where the teacher is not sure
FOLDER/manifest.json   whose predictions these are, on which list, and how much was kept (`Manifest`)

`semseg data pseudo-label` writes it (inference/pseudo_label_writer.py).
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from semseg_app.artifact.lineage import Lineage
from semseg_app.data.dataset import DatasetInfo, Sample, SegmentationData
from semseg_app.data.splits import entry
from semseg_app.errors import UserError, explain
from semseg_app.files import atomic_file

MANIFEST = "manifest.json"
EDGE_DISTANCE = 3
"""Pixels: how far from another predicted class a pixel still counts as near an edge."""


class Coverage(BaseModel):
    """Which fraction of the predicted pixels was confident enough to be kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    overall: float
    by_class: dict[str, float | None]
    """Fraction kept of the pixels predicted as each class; None where it was never predicted."""
    near_edges: float | None
    """Fraction kept within `EDGE_DISTANCE` of another predicted class: low means that outlines are not learned."""
    inside: float | None
    """Fraction kept of all other pixels."""


class Manifest(BaseModel):
    """The contents of manifest.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str
    """The model's name, as its config gives it."""
    weights: str
    """SHA-256 of the file that was run: model.safetensors or the .onnx graph."""
    teacher_classes: dict[str, str | None] | None = None
    """Class of the teacher -> class of the data (None = ignored), where they differ."""
    threshold: float = Field(ge=0, lt=1)
    dataset: str
    split: str
    """The split or list that was predicted."""
    fingerprint: str
    """Hash of its images (`semseg data list`)."""
    images: int
    classes: list[str]
    lineage: Lineage | None = None
    """Lineage of the teacher; its licenses bind the student. None where the teacher is an exported graph without its
    folder."""
    coverage: Coverage | None = None
    """None until every image has its mask."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of pseudo labels. UserError when it is none, or when it is not finished."""
    manifest = read_if_any(folder)
    if manifest is None:
        raise UserError(f"{folder}: holds no pseudo labels (no {MANIFEST}); make them with `semseg data pseudo-label`")
    if manifest.coverage is None:
        raise UserError(f"{folder}: not finished; run the same `semseg data pseudo-label` again, it goes on from there")
    return manifest


def as_labeled(
    folder: Path, data: SegmentationData, samples: Sequence[Sample], split: str
) -> tuple[SegmentationData, list[Sample]]:
    """The same images, those of the list `split`, with pseudo labels in the place of labels, to be read like any
    labeled data.

    The masks hold class indices, whatever numbers or colors the dataset's own masks use: so the data that is returned
    has no label map. UserError when the folder knows other classes, has no mask for an image, or was made for other
    photos of the same names.
    """
    manifest = read_manifest(folder)
    if manifest.classes != data.info.classes:
        raise UserError(
            f"{folder / MANIFEST}: classes {', '.join(manifest.classes)}, but {data.root} has "
            f"{', '.join(data.info.classes)}; make pseudo labels with a teacher of the same classes"
        )
    info = DatasetInfo(name=data.info.name, classes=data.info.classes, palette=data.info.palette)
    found = [sample._replace(label=mask_path(folder, data, sample)) for sample in samples]
    for sample in found:
        assert sample.label is not None
        if not sample.label.is_file():
            raise UserError(
                f"{sample.label}: missing, so {sample.image} has no pseudo label; {folder} was made for "
                f"{manifest.split!r}: name that list as data.unlabeled, or make a folder for yours"
            )
    # Other lists may hold a part of these photos, whose own hash is in no manifest.
    is_whole = (split, len(samples)) == (manifest.split, manifest.images)
    if is_whole and data.fingerprint(samples) != manifest.fingerprint:
        raise UserError(
            f"{folder}: {split} of {data.root} has changed since these pseudo labels were made; make them again in "
            "another folder"
        )
    return SegmentationData(data.root, info, data.folders), found


def mask_path(folder: Path, data: SegmentationData, sample: Sample) -> Path:
    """Where the mask of a sample lies: named as a list would name the sample."""
    return folder / f"{entry(data, sample)}.png"


def read_if_any(folder: Path) -> Manifest | None:
    """The manifest of a folder, finished or not; None without a manifest."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise explain(error, path) from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write or replace the manifest in one step."""
    with atomic_file(folder / MANIFEST) as part:
        part.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
