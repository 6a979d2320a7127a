"""A run's method as its newest checkpoint left it, with all that never reaches a model folder."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from semseg_app.data.dataset import SegmentationData
from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.models.adaptation import adapt
from semseg_app.training.contracts import Method
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.methods import build_method
from semseg_app.training.recipe import Recipe
from semseg_app.training.run.checkpoint import load_checkpoint
from semseg_app.training.run.folder import RunFolder
from semseg_app.training.run.initial_weights import initial_network


class Trained(NamedTuple):
    """A run, finished or not."""

    recipe: Recipe
    data: SegmentationData
    method: Method
    """In eval mode, on the CPU, without gradients."""
    step: int
    """How many steps it had learned for."""


def load_trained(run: Path, say: Callable[[str], None], root: Path | None = None) -> Trained:
    """The method of a run folder.

    Args:
        run: the folder.
        say: takes a line for every damaged checkpoint.
        root: where the data is now; None = where the run read it.

    Raises:
        UserError: no run folder, no checkpoint in it, the data is not there or has other classes.
    """
    folder = RunFolder(run)
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run}: not a run folder (it has no recipe.yaml); name the folder that `semseg train` wrote")
    recipe = folder.recipe()
    if root is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": root, "layout": "auto"})})
    state = load_checkpoint(folder.checkpoints, say)
    if state is None:
        raise UserError(f"{run}: has no checkpoint yet; wait for the first, or start the run again")
    data = open_dataset(recipe.data.root, recipe.data.layout)
    network, _ = initial_network(recipe.model, data.info.classes, state, say)
    if network.spec.num_classes != data.num_classes:
        raise UserError(
            f"{data.root}: has {data.num_classes} classes, and {run} learned {network.spec.num_classes}; name the data "
            "of that run"
        )
    adapt(network, recipe.model.freeze, recipe.model.lora, recipe.model.activation_checkpointing)
    labeled = ImageDataset(data, data.labeled_samples(recipe.data.labeled), with_labels=True, cache=False)
    method = build_method(recipe.method, network, labeled)
    method.load_state_dict(state["method"])
    return Trained(recipe, data, method.eval().requires_grad_(False), int(state["step"]))
