"""Training methods, one a file. What the loop asks of a method:

    uses_unlabeled      whether the unlabeled stream is read
    strong_views        the strong views of each unlabeled image that its batches shall hold
    forward(batch, step) -> dict of named scalar losses, summed by the loop. `step` counts from 0.
    after_step(step)    runs after the optimiser (an EMA teacher follows here)
    networks()          what is evaluated and saved, by role; the first is what the method delivers

A method is an nn.Module: its whole state_dict goes into checkpoints, only its networks into model folders.
"""

from typing import Annotated

from pydantic import Field
from torch import nn

from semseg_app.models import SegmentationNetwork
from semseg_app.training.data import Pool
from semseg_app.training.methods.distillation import Distillation, DistillationConfig
from semseg_app.training.methods.supervised import Supervised, SupervisedConfig

MethodConfig = Annotated[SupervisedConfig | DistillationConfig, Field(discriminator="name")]

METHODS: dict[str, type[nn.Module]] = {"supervised": Supervised, "distillation": Distillation}


def build_method(config: MethodConfig, network: SegmentationNetwork, labeled: Pool) -> nn.Module:
    """The method that a recipe names, around a fresh network; `labeled` is what it will learn from."""
    return METHODS[config.name](config, network, labeled)
