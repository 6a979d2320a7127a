"""Where a model comes from: the weights that it started from, and the teachers that it learned from.

Training writes it into the provenance of a model folder (`training.lineage`), a student's with all of its teacher's, so
that licenses and `base_model` reach the card on the Hub.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from semseg_app.artifact import ModelConfig, read_config
from semseg_app.errors import explain


class Weights(BaseModel):
    """Weights that went into a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: str
    """ "encoder", "network", "teacher", "encoder of the teacher ..." """
    license: str | None
    """An identifier of the Hub or a name; None = unknown."""
    link: str | None = None
    sha256: str | None = None
    """Checksum of the file that was read; None = the Hub's client chose it."""
    matched: int | None = None
    """How many tensors of the network started from it; None = not recorded."""
    fresh: list[str] = []
    """Parts of the network that it has no weights for and that started from random ones, such as "decoder (24)"."""
    unused: list[str] = []
    """Parts of it that the network has no place for, such as "fc (2)"."""


class Teacher(BaseModel):
    """Whom a student learned from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    by: str
    """ "distillation" or "pseudo labels"."""
    architecture: str | None
    encoder: str | None
    sha256: str
    """Hash of its model.safetensors, or of the graph that was run."""
    repo: str | None
    """Its id on the Hub, where it came from there."""


class Lineage(BaseModel):
    """Where a model comes from, in its provenance under training.lineage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    license: str | None = None
    """License of the model itself, as the recipe says."""
    weights: list[Weights] = []
    teachers: list[Teacher] = []


def continued(folder: Path) -> Lineage:
    """What a network takes over from the model folder that it starts from: all weights, licenses and teachers.

    The folder itself comes first, under the license that its recipe or its publisher chose; None where they chose none.
    """
    config = read_config(folder)
    own = lineage_of(config)
    repo = config.provenance.get("hub", {}).get("repo")
    inherited = [
        weights.model_copy(update={"role": f"{weights.role} of the initial model {config.name}"})
        for weights in own.weights
    ]
    initial = Weights(name=repo or config.name, role="network", license=own.license)
    return Lineage(weights=[initial, *inherited], teachers=own.teachers)


def lineage_of(config: ModelConfig) -> Lineage:
    """What the provenance of a model says. Where it says nothing, its weights are of unknown license."""
    training = config.provenance.get("training", {})
    if "lineage" not in training:
        unknown = Weights(name=config.name, role="all of it", license=None)
        return Lineage(weights=[unknown])
    try:
        return Lineage.model_validate(training["lineage"])
    except ValidationError as error:
        raise explain(error, f"{config.name}: provenance.training.lineage") from None


def inherit(folder: Path, sha256: str, by: str) -> Lineage:
    """What a student takes over from a teacher.

    Args:
        folder: the teacher's model folder.
        sha256: of the file of it that teaches.
        by: "distillation" or "pseudo labels".
    """
    config = read_config(folder)
    own = lineage_of(config)
    repo = config.provenance.get("hub", {}).get("repo")
    teacher = Teacher(
        name=config.name,
        by=by,
        architecture=config.model.architecture,
        encoder=config.model.encoder,
        sha256=sha256,
        repo=repo,
    )
    weights = [one.model_copy(update={"role": f"{one.role} of the teacher {config.name}"}) for one in own.weights]
    if own.license is not None:
        weights.insert(0, Weights(name=repo or config.name, role="teacher", license=own.license))
    return Lineage(weights=weights, teachers=[teacher, *own.teachers])
