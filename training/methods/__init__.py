"""Training methods, one a file. What the loop asks of a method:

    uses_unlabeled      whether the unlabeled stream is read
    strong_views        the strong views of each unlabeled image that its batches shall hold
    forward(batch, step) -> dict of named scalar losses, summed by the loop. `step` counts from 0.
    after_step(step)    runs after the optimizer (an EMA teacher follows here)
    networks()          what is evaluated and saved, by role; the first is what the method delivers
    monitor             a PseudoLabelMonitor (training/methods/guardrails.py), or None where there are no pseudo labels
    references()        optional: trained networks, by role, that are scored before the first step
    clip_gradients()    optional: runs before the optimizer, on the gradients of the whole step

A method's config may have `image_labels`: a table (training/data/image_labels.py) that unlabeled batches then carry.

Random numbers come from torch's global generators: the loop seeds them anew for every batch.

A method is an nn.Module: its whole state_dict goes into checkpoints, only its networks into model folders.
"""

from typing import Annotated

from pydantic import Field
from torch import nn

from semseg_app.models import SegmentationNetwork
from semseg_app.training.data.streams import Pool
from semseg_app.training.methods.augseg import AugSeg, AugSegConfig
from semseg_app.training.methods.distillation import Distillation, DistillationConfig
from semseg_app.training.methods.fixmatch import FixMatch, FixMatchConfig
from semseg_app.training.methods.mean_teacher import MeanTeacher, MeanTeacherConfig
from semseg_app.training.methods.pc2seg import PC2Seg, PC2SegConfig
from semseg_app.training.methods.pseudoseg import PseudoSeg, PseudoSegConfig
from semseg_app.training.methods.s4former import S4Former, S4FormerConfig
from semseg_app.training.methods.self_training import SelfTraining, SelfTrainingConfig
from semseg_app.training.methods.supervised import Supervised, SupervisedConfig
from semseg_app.training.methods.unimatch import UniMatch, UniMatchConfig
from semseg_app.training.methods.unimatch_v2 import UniMatchV2, UniMatchV2Config

MethodConfig = Annotated[
    SupervisedConfig
    | MeanTeacherConfig
    | FixMatchConfig
    | SelfTrainingConfig
    | UniMatchConfig
    | AugSegConfig
    | UniMatchV2Config
    | PseudoSegConfig
    | PC2SegConfig
    | S4FormerConfig
    | DistillationConfig,
    Field(discriminator="name"),
]

METHODS: dict[str, type[nn.Module]] = {
    "supervised": Supervised,
    "mean-teacher": MeanTeacher,
    "fixmatch": FixMatch,
    "self-training": SelfTraining,
    "unimatch": UniMatch,
    "augseg": AugSeg,
    "unimatch-v2": UniMatchV2,
    "pseudoseg": PseudoSeg,
    "pc2seg": PC2Seg,
    "s4former": S4Former,
    "distillation": Distillation,
}


def build_method(config: MethodConfig, network: SegmentationNetwork, labeled: Pool) -> nn.Module:
    """The method that a recipe names, around a fresh network; `labeled` is what it will learn from."""
    return METHODS[config.name](config, network, labeled)
