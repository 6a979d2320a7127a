"""Distillation: a student learns from labels and from a trained teacher, also on unlabeled images if asked.

The distillers themselves, each with its paper, are in training/distill/; a recipe puts any of them together by weight.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from accelerate import Accelerator
from pydantic import Field, create_model, model_validator
from torch import Tensor, nn
from torch.nn import functional

from semseg_app.errors import UserError
from semseg_app.inference.class_mapping import TeacherClasses
from semseg_app.labels import IGNORE
from semseg_app.models import Features, SegmentationNetwork
from semseg_app.training.contracts import Distiller, MapName, Method, Pairs, PartConfig, Segmenter
from semseg_app.training.data.streams import Batch, ImageDataset
from semseg_app.training.distill import DISTILLERS
from semseg_app.training.distill.maps import NetworkPair, on_grid, padded_size, select_feature
from semseg_app.training.distill.presets import PRESETS, Preset
from semseg_app.training.distill.teacher_cache import TeacherCache, TeacherCacheConfig
from semseg_app.training.distill.teachers import Teacher
from semseg_app.training.losses.labeled_loss import LabeledLoss, LabeledLossConfig

if TYPE_CHECKING:
    from semseg_app.training.recipe import Recipe


class DistillationKeys(LabeledLossConfig):
    """Which teacher, and what of it the student follows. A distiller without a section (null) is off."""

    name: Literal["distillation"] = "distillation"
    teacher: Path
    """A model folder, a segmentation model that transformers saved, a Hub id (user/repo@revision) of either, or an
    .onnx file of another program that a .yaml file describes."""
    teacher_classes: TeacherClasses | None = None
    """Class of the teacher -> class of the data, several to one if need be; classes of equal names are partners by
    themselves, and null takes a partner away. Without a partner a class is ignored. null = the classes are equal."""
    use_unlabeled: bool = False
    """Follow the teacher on data.unlabeled too. A distiller that needs labels sees the labeled images alone."""
    teacher_cache: TeacherCacheConfig | None = None
    """Show the teacher every photo once, whole and without augmentation, and keep its maps in files; a step then costs
    little more than the student's own. null = the teacher sees every crop; {} = with the defaults below."""
    labels: bool = True
    """False = learn from the teacher alone: labeled photos are shown and their masks are not read by the student's own
    loss, as in the first stage of a distillation in two."""
    preset: Preset | None = None
    """Sections to start from; a key that is written beside it counts more."""

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

    def sections(self) -> dict[str, PartConfig]:
        """The distillers that are on, by name."""
        return {name: section for name in DISTILLERS if (section := getattr(self, name)) is not None}

    def check(self, recipe: "Recipe") -> None:
        """Every distiller checks itself."""
        for section in self.sections().values():
            section.check(recipe)


def _about(config: type[PartConfig]) -> str:
    """The first sentence of a distiller's file."""
    return (sys.modules[config.__module__].__doc__ or "").partition("\n")[0]


_SECTIONS: dict[str, Any] = {
    name: (row.config | None, Field(default=row.default, description=f"{_about(row.config)} null = off."))
    for name, row in DISTILLERS.items()
}
DistillationConfig = create_model("DistillationConfig", __base__=DistillationKeys, __module__=__name__, **_SECTIONS)
"""`DistillationKeys` with one section for each distiller of the table."""


class Distillation(Method):
    """One pass of student and teacher over all images; the distillers compare their maps."""

    def __init__(self, config: DistillationKeys, network: SegmentationNetwork, labeled: ImageDataset):
        super().__init__()
        self.config = config
        self.uses_unlabeled = config.use_unlabeled
        self.network = network
        self.teacher = Teacher(config.teacher, labeled.data, config.teacher_classes)
        self.teacher_model = self.teacher.path
        self.labeled_loss = LabeledLoss(config, labeled, network)
        self.distillers = build_distillers(config, network, self.teacher.network)
        for section, distiller in zip(self.distillers, self.each(), strict=True):
            if self.teacher.is_partial and "logits" in distiller.reads and section != "kd":
                raise UserError(
                    f"method.{section}: cannot follow hard labels, or logits in which classes have no partner; leave "
                    "it out, or give every class a partner in method.teacher_classes"
                )
        if config.teacher_cache and self.teacher.is_hard:
            raise UserError(
                "method.teacher_cache: the teacher gives hard labels, which need none; leave it out, or write them "
                "with `semseg data pseudo-label` and learn from them with method.name=self-training"
            )
        if not self.distillers:
            raise UserError("method: no distiller is on; leave kd on, or use method.name=supervised")

    def prepare(
        self, images: Sequence[ImageDataset], recipe: "Recipe", accelerator: Accelerator, say: Callable[[str], None]
    ) -> dict[str, Any]:
        """Fill the teacher's cache, where the recipe asks for one."""
        chosen = self.config.teacher_cache
        if chosen is None:
            return {}
        folder = chosen.folder or recipe.run_folder.parent / "teacher-cache"
        cache = TeacherCache(self.teacher, sorted(self._names(), key=str), recipe.view, chosen, folder)
        return {"teacher_cache": cache.fill(images, accelerator, say)}

    def _names(self) -> set[MapName]:
        """The maps that the distillers compare."""
        return {name for distiller in self.each() for name in distiller.reads}

    def _taught(self, batch: Batch, images: Tensor) -> dict[MapName, Tensor]:
        """The teacher's maps of the images: from the batch, which has them of a cache, or from the teacher itself."""
        if batch.labeled.taught is None:
            return self.teacher.maps(images, self._names())
        if batch.unlabeled is None:
            return batch.labeled.taught
        assert batch.unlabeled.taught is not None
        more = batch.unlabeled.taught
        return {name: torch.cat([values, more[name]]) for name, values in batch.labeled.taught.items()}

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The labeled losses and those of every distiller, on one pass of each network over all images."""
        images, labels = batch.labeled.images, batch.labeled.labels
        if batch.unlabeled is not None:
            images = torch.cat([images, batch.unlabeled.weak])
        features = self.network.features(images)
        losses = {}
        if self.config.labels:
            losses = self.labeled_loss(self.network, features.split(len(labels))[0], batch.labeled)
        else:  # every weight must take part in every step, or several processes wait for its gradient
            unread = [features.logits, *features.auxiliary]
            losses["supervised"] = 0 * torch.stack([logits.float().sum() for logits in unread]).sum()
        pairs = self.pairs(images, features, self._taught(batch, images))
        extent = padded_size(self.network, images)
        border = (0, extent[1] - labels.shape[2], 0, extent[0] - labels.shape[1])
        labels = functional.pad(labels, border, value=IGNORE)
        for distiller in self.each():
            losses |= distiller(pairs, labels)
        return losses

    def pairs(self, images: Tensor, features: Features, taught_maps: Mapping[MapName, Tensor]) -> Pairs:
        """The maps of student (`features` of the images) and teacher (`taught_maps`), on the student's grid."""
        extent, covers = padded_size(self.network, images), self.teacher.covers(images)
        pairs: dict[MapName, tuple[Tensor, Tensor]] = {}
        for name, taught in taught_maps.items():
            own = select_feature(features, name)
            grid = (own.shape[2], own.shape[3])
            pairs[name] = own, on_grid(taught, covers, grid, extent, nearest=self.teacher.is_hard)
        if "logits" in pairs:
            pairs["logits"] = self.teacher.pair_of_logits(*pairs["logits"])
        return pairs

    def clip_gradients(self) -> None:
        """Every distiller bounds its own."""
        for distiller in self.each():
            distiller.clip_gradients()

    def after_step(self, step: int) -> None:
        """What distillers learn beside the student."""
        for distiller in self.each():
            distiller.after_step()

    def each(self) -> Iterator[Distiller]:
        """The distillers, in the order of their sections."""
        for distiller in self.distillers.values():
            assert isinstance(distiller, Distiller)
            yield distiller

    def networks(self) -> dict[str, SegmentationNetwork]:
        """The student; its teacher has a model folder already."""
        return {"student": self.network}

    def references(self) -> dict[str, Segmenter]:
        """What the student is measured against."""
        return {"teacher": self.teacher}


def build_distillers(
    config: DistillationKeys, student: SegmentationNetwork, teacher: SegmentationNetwork | None
) -> nn.ModuleDict:
    """The distillers that are on, by the names of their sections, for the maps of these two networks."""
    built: dict[str, Distiller] = {}
    for section, chosen in config.sections().items():
        pair = NetworkPair(student, teacher, f"method.{section}.features")
        built[section] = DISTILLERS[section].build(chosen, pair)
        for name in built[section].reads:
            pair.widths(name)
    return nn.ModuleDict(built)
