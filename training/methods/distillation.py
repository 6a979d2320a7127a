"""Distillation: a student learns from labels and from a trained teacher, also on unlabeled images if asked.

The distillers themselves, each with its paper, are in training/distill/; a recipe puts any of them together by weight.
"""

from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.artifact import read_config
from semseg_app.errors import UserError
from semseg_app.hub.download import local_model
from semseg_app.labels import IGNORE
from semseg_app.models import SegmentationNetwork, load
from semseg_app.training.data.streams import Batch, Pool, StrongView
from semseg_app.training.distill.af_dcd import AfDCD, AfDCDConfig
from semseg_app.training.distill.attention_transfer import AttentionTransfer, AttentionTransferConfig
from semseg_app.training.distill.cirkd import CIRKD, CIRKDConfig
from semseg_app.training.distill.cwd import CWD, CWDConfig
from semseg_app.training.distill.fitnet import FitNet, FitNetConfig
from semseg_app.training.distill.ifvd import IFVD, IFVDConfig
from semseg_app.training.distill.kd import KD, KDConfig
from semseg_app.training.distill.maps import MapName, on_grid, padded_size, take, width
from semseg_app.training.distill.maskd import MasKD, MasKDConfig
from semseg_app.training.distill.mgd import MGD, MGDConfig
from semseg_app.training.distill.presets import PRESETS, Preset
from semseg_app.training.distill.skd import SKD, SKDConfig
from semseg_app.training.losses.labeled_loss import LabeledLoss, LabeledLossConfig


class DistillationConfig(LabeledLossConfig):
    """Which teacher, and what of it the student follows. A distiller without a section (null) is off."""

    name: Literal["distillation"] = "distillation"
    teacher: Path
    """A model folder with the classes of the data, or a Hub id (user/repo@revision), of any architecture."""
    use_unlabeled: bool = False
    """Follow the teacher on data.unlabeled too. Only IFVD and the queues of CIRKD need labels, and see labeled images
    alone; so do the tokens of MasKD."""
    preset: Preset | None = None
    """Sections to start from; a key that is written beside it counts more."""
    kd: KDConfig | None = KDConfig()
    cwd: CWDConfig | None = None
    skd: SKDConfig | None = None
    ifvd: IFVDConfig | None = None
    attention_transfer: AttentionTransferConfig | None = None
    fitnet: FitNetConfig | None = None
    mgd: MGDConfig | None = None
    af_dcd: AfDCDConfig | None = None
    cirkd: CIRKDConfig | None = None
    maskd: MasKDConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("preset") not in PRESETS:
            return given
        filled = dict(given)
        for name, section in PRESETS[given["preset"]].items():
            written = given.get(name, {})
            filled[name] = section | written if isinstance(written, dict) else written
        return filled


class Distillation(nn.Module):
    """See `semseg_app.training.methods` for what the loop asks of a method."""

    strong_views: tuple[StrongView, ...] = ()
    monitor = None

    def __init__(self, config: DistillationConfig, network: SegmentationNetwork, labeled: Pool):
        super().__init__()
        self.config = config
        self.uses_unlabeled = config.use_unlabeled
        self.network = network
        data = labeled.data
        self.teacher_folder = local_model(config.teacher)
        classes = read_config(self.teacher_folder).labels.classes
        if classes != data.info.classes:
            raise UserError(
                f"method.teacher: {config.teacher} knows {', '.join(classes)}, but {data.root} has "
                f"{', '.join(data.info.classes)}; train the teacher on the same classes"
            )
        self.teacher = load(self.teacher_folder).requires_grad_(False)
        self.labeled_loss = LabeledLoss(config, labeled, network)
        self.distillers = build_distillers(config, network, self.teacher)
        if not self.distillers:
            raise UserError("method: no distiller is on; leave kd on, or use method.name=supervised")

    def train(self, mode: bool = True) -> Self:
        """The teacher stays in eval mode: its batch statistics are what it was trained to."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The labeled losses and those of every distiller, on one pass of each network over all images."""
        images, labels = batch.labeled.images, batch.labeled.labels
        if batch.unlabeled is not None:
            images = torch.cat([images, batch.unlabeled.weak])
        features = self.network.features(images)
        losses = self.labeled_loss(self.network, features.split(len(labels))[0], batch.labeled)
        with torch.no_grad():
            taught = self.teacher.features(images)
        extent, covers = padded_size(self.network, images), padded_size(self.teacher, images)
        pairs: dict[MapName, tuple[Tensor, Tensor]] = {}
        for name in {name for distiller in self.distillers.values() for name in distiller.reads}:
            own = take(features, name)
            pairs[name] = own, on_grid(take(taught, name), covers, own.shape[2:], extent)
        border = (0, extent[1] - labels.shape[2], 0, extent[0] - labels.shape[1])
        labels = functional.pad(labels, border, value=IGNORE)
        for distiller in self.distillers.values():
            losses |= distiller(pairs, labels)
        return losses

    def clip_gradients(self) -> None:
        """Af-DCD bounds the gradients of its own modules."""
        if "af_dcd" in self.distillers:
            self.distillers["af_dcd"].clip_gradients()

    def after_step(self, step: int) -> None:
        """The tokens of MasKD learn beside the student."""
        if "maskd" in self.distillers:
            self.distillers["maskd"].after_step()

    def networks(self) -> dict[str, SegmentationNetwork]:
        """The student; its teacher has a model folder already."""
        return {"student": self.network}

    def references(self) -> dict[str, SegmentationNetwork]:
        """What the student is measured against."""
        return {"teacher": self.teacher}


def build_distillers(
    config: DistillationConfig, student: SegmentationNetwork, teacher: SegmentationNetwork
) -> nn.ModuleDict:
    """The distillers that are on, by the names of their sections, for the maps of these two networks."""

    def widths(section: str, name: MapName) -> tuple[int, int]:
        key = f"method.{section}.features"
        return width(student, name, f"{key}: the student's"), width(teacher, name, f"{key}: the teacher's")

    classes = student.spec.num_classes
    built: dict[str, nn.Module] = {}
    if config.kd:
        built["kd"] = KD(config.kd)
    if config.cwd:
        built["cwd"] = CWD(config.cwd, *widths("cwd", config.cwd.features))
    if config.skd:
        built["skd"] = SKD(config.skd)
    if config.ifvd:
        built["ifvd"] = IFVD(config.ifvd, classes)
    if config.attention_transfer:
        built["attention_transfer"] = AttentionTransfer(config.attention_transfer)
    if config.fitnet:
        built["fitnet"] = FitNet(config.fitnet, *widths("fitnet", config.fitnet.features))
    if config.mgd:
        built["mgd"] = MGD(config.mgd, *widths("mgd", config.mgd.features))
    if config.af_dcd:
        built["af_dcd"] = AfDCD(config.af_dcd, *widths("af_dcd", config.af_dcd.features))
    if config.cirkd:
        built["cirkd"] = CIRKD(config.cirkd, *widths("cirkd", config.cirkd.features), classes)
    if config.maskd:
        built["maskd"] = MasKD(config.maskd, classes)
    for section, distiller in built.items():
        for name in distiller.reads:
            widths(section, name)
    return nn.ModuleDict(built)
