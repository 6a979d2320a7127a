"""The lineage of a network in training: pretrained weights, and what its teacher brings along."""

from typing import Any

from semseg_app.artifact.lineage import Lineage
from semseg_app.data.pseudo_label_folder import read_manifest
from semseg_app.inference.teacher_lineage import teacher_lineage
from semseg_app.training.contracts import Method
from semseg_app.training.recipe import Recipe


def training_lineage(recipe: Recipe, method: Method, initial: Lineage) -> dict[str, Any]:
    """Lineage as JSON, for the provenance of every model that this run saves.

    Args:
        recipe: for its license.
        method: its `teacher_model`, where it has one; pseudo labels carry their own lineage.
        initial: of the weights that the network started from.
    """
    found = initial.model_copy(update={"license": recipe.license})
    teacher = method.teacher_model
    if teacher is not None and (inherited := teacher_lineage(teacher, "distillation")) is not None:
        found = _joined(found, inherited)
    labels = recipe.method.pseudo_label_folder()
    if labels is not None and (written := read_manifest(labels).lineage) is not None:
        found = _joined(found, written)
    return found.model_dump(mode="json")


def _joined(own: Lineage, inherited: Lineage) -> Lineage:
    weights = [*own.weights, *(taught for taught in inherited.weights if taught not in own.weights)]
    return own.model_copy(update={"weights": weights, "teachers": [*own.teachers, *inherited.teachers]})
