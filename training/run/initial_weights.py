"""The network of a run at its first step, or as its checkpoint will fill it."""

from collections.abc import Callable
from typing import Any

from semseg_app.artifact.lineage import Lineage
from semseg_app.errors import UserError
from semseg_app.hub.download import local_model
from semseg_app.model_spec import stored_spec
from semseg_app.models import ModelSpec, SegmentationNetwork, build
from semseg_app.models.initial import start_network
from semseg_app.training.recipe import ModelSection


def initial_network(
    choice: ModelSection, classes: list[str], state: dict[str, Any] | None, say: Callable[[str], None]
) -> tuple[SegmentationNetwork, Lineage]:
    """The network of a run and the lineage of the weights that it started from.

    Args:
        choice: the recipe's model section.
        classes: names of the classes of the data.
        state: the checkpoint to continue from. It holds all weights, so none are read or fetched again, and the file or
            folder that the run started from need not exist any more. None = a new run.
        say: takes the lines that say what was loaded.
    """
    if state is not None:
        if "model" not in state or "weights" not in state:
            raise UserError("--resume: the checkpoint is of another version of semseg; choose another output=")
        network = build(ModelSpec.model_validate(stored_spec(state["model"])), auxiliary=choice.auxiliary)
        return network, Lineage.model_validate(state["weights"])
    start = start_network(
        choice.spec(len(classes)), choice.weights, classes, local_model, choice.auxiliary, (choice.mean, choice.std)
    )
    for note in start.notes:
        say(note)
    return start.network, start.lineage
