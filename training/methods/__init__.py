"""Training methods: one file for each, with its config and its paper; and the table of them all.

The contract is `semseg_app.training.contracts`.
"""

import functools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from semseg_app.models import SegmentationNetwork
from semseg_app.training.contracts import Method, MethodSettings
from semseg_app.training.data.streams import ImageDataset
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


@dataclass(frozen=True)
class Row:
    """One method; its name is the default of `config.name`."""

    config: type[MethodSettings]
    method: type[Method]


ROWS = (
    Row(SupervisedConfig, Supervised),
    Row(MeanTeacherConfig, MeanTeacher),
    Row(FixMatchConfig, FixMatch),
    Row(SelfTrainingConfig, SelfTraining),
    Row(UniMatchConfig, UniMatch),
    Row(AugSegConfig, AugSeg),
    Row(UniMatchV2Config, UniMatchV2),
    Row(PseudoSegConfig, PseudoSeg),
    Row(PC2SegConfig, PC2Seg),
    Row(S4FormerConfig, S4Former),
    Row(DistillationConfig, Distillation),
)
METHODS: dict[str, Row] = {row.config.model_fields["name"].default: row for row in ROWS}
"""The methods by the names that recipes use; a recipe without a method takes the first."""

if TYPE_CHECKING:
    MethodConfig = MethodSettings
else:  # one of the configs above, told apart by its name
    MethodConfig = Annotated[functools.reduce(operator.or_, (row.config for row in ROWS)), Field(discriminator="name")]


def build_method(config: MethodConfig, network: SegmentationNetwork, labeled: ImageDataset) -> Method:
    """The method that a recipe names, around a fresh network; `labeled` is what it will learn from."""
    return METHODS[config.name].method(config, network, labeled)
