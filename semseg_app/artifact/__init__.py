"""A model folder: one trained network with all that is needed to use it.

    config.json          ModelConfig: network, classes, palette, provenance
    model.safetensors    weights
    onnx/model.onnx      the deployed graph (after `semseg export`)
    manifest.json        hashes of the weights and of each exported file, and what was verified about it

Reading one needs no torch; only `save` and the torch engine do.
"""

import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from semseg_app.errors import UserError, explain
from semseg_app.files import atomic_file, atomic_folder, sha256
from semseg_app.labels import LabelSpace
from semseg_app.model_spec import ModelSpec, stored_spec

CONFIG, WEIGHTS, MANIFEST = "config.json", "model.safetensors", "manifest.json"
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar", ".pkl")
"""Of files that hold tensors, and neither a network nor its classes."""


class ModelConfig(BaseModel):
    """The contents of config.json."""

    model_config = ConfigDict(extra="forbid")

    library: str = "semseg_app"
    format_version: int = 1
    name: str
    model: ModelSpec
    labels: LabelSpace
    provenance: dict[str, Any] = Field(default_factory=dict)
    """Recipe, data fingerprints, commit, versions, metrics: whatever the training wrote."""

    @model_validator(mode="before")
    @classmethod
    def _of_any_version(cls, content: Any) -> Any:
        if isinstance(content, dict) and isinstance(model := content.get("model"), dict):
            return {**content, "model": stored_spec(model)}
        return content

    @model_validator(mode="after")
    def _classes_fit(self) -> Self:
        if self.model.num_classes != (named := len(self.labels.classes)):
            raise ValueError(f"model.num_classes is {self.model.num_classes}, but labels names {named}")
        return self


def read_config(folder: Path) -> ModelConfig:
    """The config of a model folder. UserError when it is not one."""
    path = folder / CONFIG
    try:
        config = ModelConfig.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        what = "a file, not a model folder" if folder.is_file() else f"not a model folder (it has no {CONFIG})"
        raise UserError(f"{folder}: {what}") from None
    except ValidationError as error:
        from semseg_app.artifact.transformers_folder import transformers_type

        if kind := transformers_type(folder):
            raise UserError(
                f"{folder}: a {kind} model of transformers; this needs a model folder of ours (`semseg evaluate`, "
                "`predict`, `data pseudo-label` and method.teacher take both)"
            ) from None
        raise explain(error, path) from None
    if config.format_version != 1:
        raise UserError(f"{path}: format {config.format_version} is newer than this program reads; upgrade semseg-app")
    return config


def model_folder(path: Path) -> Path:
    """The model that a path means: of the run folder of a training its best model, otherwise the path itself.

    UserError for a run folder without a best model: its run has no data.val, or has not been evaluated yet. And for a
    link to nothing.
    """
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path}: a link to {path.readlink()}, which is not there")
    if (path / CONFIG).exists():
        return path
    if (path / "best" / CONFIG).is_file():
        return path / "best"
    if not (path / "recipe.yaml").is_file():
        return path
    last = path / "last"
    fix = f"use {last}" if (last / CONFIG).is_file() else "wait for its first evaluation, or continue it with --resume"
    raise UserError(f"{path}: a run folder without a best model; {fix}")


def no_model(path: Path) -> UserError:
    """What a file that no engine opens may be, and what to do with it."""
    if path.name == WEIGHTS and (path.parent / CONFIG).is_file():
        return UserError(f"{path}: the weights of a model folder; name the folder, {path.parent}")
    if path.suffix in WEIGHT_SUFFIXES:
        return UserError(
            f"{path}: weights alone, without network and classes; train from them (`semseg train RECIPE "
            f"model.weights={path}`) and name the model folder which that leaves"
        )
    return UserError(f"{path}: neither a model folder nor an .onnx or .engine file")


def save(folder: Path, config: ModelConfig, weights: dict[str, Any]) -> None:
    """Write a new model folder, whole or not at all. `weights`: name -> torch tensor; `folder` must not exist."""
    from safetensors.torch import save_file

    with atomic_folder(folder) as part:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        (part / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        # safetensors writes for the owner alone; a server often runs as somebody else.
        (part / WEIGHTS).chmod((part / CONFIG).stat().st_mode)
        write_manifest(part, {"format_version": 1, "weights": {"sha256": sha256(part / WEIGHTS)}, "exports": {}})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a model folder; empty when it has none."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: damaged ({error}); run `semseg export {folder}` again") from None
    exports = manifest.get("exports", {}) if isinstance(manifest, dict) else None
    weights = manifest.get("weights", {}) if isinstance(manifest, dict) else None
    if (
        not isinstance(exports, dict)
        or not isinstance(weights, dict)
        or not all(isinstance(entry, dict) for entry in exports.values())
    ):
        raise UserError(f"{path}: not a manifest; run `semseg export {folder}` again")
    return manifest


def manifest_entry(file: Path) -> dict[str, Any]:
    """What the manifest of its model folder says of an exported file; empty where it lies in none, or it says nothing.

    The file may be a link out of its folder (in the Hub's cache all are) or be reached by one.
    """
    for path in (file.absolute(), file.resolve()):
        folder = path.parent.parent
        if (folder / CONFIG).is_file():
            name = path.relative_to(folder).as_posix()
            entry: dict[str, Any] = read_manifest(folder).get("exports", {}).get(name, {})
            return entry
    return {}


def check_weights(folder: Path) -> None:
    """UserError when the manifest of a model folder has a hash of the weights, and they are other ones."""
    expected = read_manifest(folder).get("weights", {}).get("sha256")
    if expected is not None and (folder / WEIGHTS).is_file() and sha256(folder / WEIGHTS) != expected:
        raise UserError(
            f"{folder / WEIGHTS}: damaged or replaced since it was saved ({MANIFEST} has another sha256); copy the "
            "model folder again, or train again"
        )


def check_graph(graph: Path) -> None:
    """UserError when the manifest of its model folder vouches for another content of an exported file."""
    expected = manifest_entry(graph).get("sha256")
    if expected is not None and sha256(graph) != expected:
        raise UserError(
            f"{graph}: damaged or replaced since it was verified ({MANIFEST} has another sha256); run `semseg export` "
            "again, copy the model folder again, or run it all the same with --force"
        )


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replace the manifest in one step."""
    with atomic_file(folder / MANIFEST) as part:
        part.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
