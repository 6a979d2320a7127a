"""What a student inherits from a teacher of any kind: our model folders, folders of transformers, other .onnx files."""

from pathlib import Path

from semseg_app.artifact import CONFIG, WEIGHTS
from semseg_app.artifact.lineage import Lineage, Teacher, Weights, inherit
from semseg_app.artifact.transformers_folder import (
    card_license,
    model_name,
    repository,
    transformers_type,
    weights_hash,
)
from semseg_app.files import sha256
from semseg_app.inference.engines.other_onnx import description_file, read_description


def weights_of(model: Path, file: Path | None = None) -> str:
    """SHA-256 of what teaches: of `file`, a part of the model folder `model`, or of the model's own weights."""
    if file is not None:
        return sha256(file)
    if model.is_file():
        return sha256(model)
    return weights_hash(model) if transformers_type(model) else sha256(model / WEIGHTS)


def teacher_lineage(model: Path, by: str, file: Path | None = None) -> Lineage | None:
    """The lineage that a student takes over; None where the teacher is a graph of ours outside of any model folder.

    Args:
        model: a model folder, a folder that transformers saved, or an .onnx file.
        by: "distillation" or "pseudo labels".
        file: of a model folder, the file that teaches; None = its weights.
    """
    used = weights_of(model, file)
    folder = model if model.is_dir() else model.absolute().parent.parent
    if model.is_dir() and (kind := transformers_type(model)):
        return _of_other(model, by, kind, used, card_license(model))
    if not model.is_dir() and description_file(model).is_file():
        return _of_other(model, by, "onnx", used, read_description(model).license)
    return inherit(folder, used, by) if (folder / CONFIG).is_file() else None


def _of_other(model: Path, by: str, architecture: str, used: str, license: str | None) -> Lineage:
    name, repo = model_name(model), repository(model)
    teacher = Teacher(name=name, by=by, architecture=architecture, encoder=None, sha256=used, repo=repo)
    return Lineage(weights=[Weights(name=name, role="teacher", license=license)], teachers=[teacher])
