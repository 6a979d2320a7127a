"""What is known of a served model beside its answers: its score and its size, read from its model folder."""

from pathlib import Path
from typing import NamedTuple

from semseg_app.artifact import CONFIG, WEIGHTS, manifest_entry, model_folder, read_config
from semseg_app.inference.engines.base import GRAPHS, Engine


class ModelFacts(NamedTuple):
    """What a model's card shows. None: not known."""

    file_bytes: int | None = None
    """Size of the file that the engine runs."""
    miou: float | None = None
    """Fraction, on the validation photos that the model folder names."""


def model_facts(path: Path, engine: Engine) -> ModelFacts:
    """The facts of what `engine` runs; `path` is what it was opened from: a model folder, or a file in one."""
    path = model_folder(path)
    is_ours = path.is_dir() and (path / CONFIG).is_file()
    if is_ours and engine.kind == "torch":
        scores = read_config(path).provenance.get("training", {}).get("val") or {}
        return ModelFacts(_size(path / WEIGHTS), scores.get("miou"))
    # TensorRT's engines are built per machine, beside the graph; their own size says nothing of the model.
    file = path / GRAPHS[engine.precision] if is_ours and engine.precision in GRAPHS else path
    measured = manifest_entry(file).get("miou") or {}
    return ModelFacts(_size(file), measured.get("exported"))


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None
