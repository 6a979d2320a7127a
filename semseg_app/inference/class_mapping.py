"""One label space in the words of another: which class of a model means which class of the data.

`teacher_classes` of a recipe, and the file of `--teacher-classes`, name partners; classes of equal names are partners
by themselves. Several classes of the model may mean one class of the data: their probabilities are added. A class of
the model without a partner says nothing: pixels where it is the most probable are not taught.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from semseg_app.data.dataset import DatasetInfo, read_yaml
from semseg_app.errors import UserError, did_you_mean, explain
from semseg_app.inference.engines.base import Engine, Prediction, ProbabilityEngine
from semseg_app.labels import LabelSpace

TeacherClasses = dict[str, str | None]
"""Class of the model -> class of the data; None = no partner, also where the data has a class of that name."""
KEY = "teacher_classes"


class ClassMapping:
    """Partners between two label spaces.

    Args:
        model: the classes of the model.
        data: the classes of the data.
        named: partners by name, beside those of equal names.

    Raises:
        UserError: a name that does not exist, or no partner at all.
    """

    def __init__(self, model: Sequence[str], data: Sequence[str], named: Mapping[str, str | None]):
        for name, target in named.items():
            if name not in model:
                raise UserError(
                    f"{KEY}: the teacher has no class {name!r}{did_you_mean(name, model) or _choices(model)}"
                )
            if target is not None and target not in data:
                raise UserError(
                    f"{KEY}: the data has no class {target!r}{did_you_mean(target, data) or _choices(data)}"
                )
        self.classes = list(data)
        partners = [named.get(name, name if name in data else None) for name in model]
        self.partner = np.array([-1 if name is None else data.index(name) for name in partners])
        """int `[T]`: for each class of the model its class of the data, -1 = none."""
        self.without_partner = [name for name, partner in zip(model, partners, strict=True) if partner is None]
        """Classes of the model that mean nothing here."""
        self.untaught = [name for name in data if name not in partners]
        """Classes of the data that the model does not know."""
        self.names: TeacherClasses = dict(zip(model, partners, strict=True))
        if len(self.without_partner) == len(model):
            raise UserError(
                f"{KEY}: no class of the teacher means a class of the data; name partners, such as car: vehicle"
            )

    @property
    def warning(self) -> str | None:
        """A sentence that names every class without a partner; None where all have one."""
        parts = []
        if self.without_partner:
            parts.append(f"pixels of the teacher's {_list(self.without_partner)} are ignored")
        if self.untaught:
            parts.append(f"the teacher does not know {_list(self.untaught)}")
        return f"{KEY}: {'; '.join(parts)}" if parts else None

    def merge(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of the model's classes, float32 `[N, T, H, W]` -> those of the data's, `[N, K, H, W]`.

        Returns also bool `[N, H, W]`: where a class without a partner is more probable than every class of the data.
        """
        merged = np.zeros((len(scores), len(self.classes), *scores.shape[2:]), np.float32)
        other = np.zeros((len(scores), *scores.shape[2:]), np.float32)
        for index, partner in enumerate(self.partner):
            if partner < 0:
                np.maximum(other, scores[:, index], out=other)
            else:
                merged[:, partner] += scores[:, index]
        return merged, other > merged.max(axis=1)


def class_mapping(
    model: Sequence[str], data: Sequence[str], named: Mapping[str, str | None] | None
) -> ClassMapping | None:
    """The mapping between two label spaces; None where they are equal, or where no partners are `named`."""
    if named is None or (list(model) == list(data) and all(name == target for name, target in named.items())):
        return None
    return ClassMapping(model, data, named)


def read_teacher_classes(path: Path | None) -> TeacherClasses | None:
    """The partners in a YAML file of `model's class: data's class` lines; None without a file."""
    if path is None:
        return None
    try:
        return TypeAdapter(TeacherClasses).validate_python(read_yaml(path))
    except ValidationError as error:
        raise explain(error, path) from None


class MappedEngine:
    """An engine that answers in the classes of the data. It knows class maps alone.

    Where a class without a partner was predicted, the confidence is 0 and the class means nothing.
    """

    def __init__(self, engine: Engine, mapping: ClassMapping, labels: LabelSpace):
        self._engine = engine
        self.mapping = mapping
        self.name, self.kind, self.precision = engine.name, engine.kind, engine.precision
        self.labels = labels

    @property
    def device(self) -> str:
        """What the engine really runs on."""
        return self._engine.device

    def infer(self, images: np.ndarray) -> Prediction:
        """Segment uint8 RGB `[N, H, W, 3]`; any H and W."""
        answer = self._engine.infer(images)
        partner = self.mapping.partner[answer.classes]
        known = partner >= 0
        return Prediction(np.where(known, partner, 0).astype(np.uint8), np.where(known, answer.confidence, np.uint8(0)))


class MappedProbabilityEngine(MappedEngine):
    """The same of an engine that gives probabilities: those of merged classes are added."""

    def __init__(self, engine: ProbabilityEngine, mapping: ClassMapping, labels: LabelSpace):
        super().__init__(engine, mapping, labels)
        self._scores = engine.probabilities

    def infer(self, images: np.ndarray) -> Prediction:
        """Segment uint8 RGB `[N, H, W, 3]`; the class is the most probable one of the data."""
        merged, without = self.mapping.merge(self._scores(images))
        confidence = np.where(without, np.uint8(0), np.rint(255 * merged.max(axis=1)).clip(0, 255).astype(np.uint8))
        return Prediction(merged.argmax(axis=1).astype(np.uint8), confidence)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Probabilities of the data's classes, float32 `[N, K, H, W]`; classes without a partner keep their share."""
        return self.mapping.merge(self._scores(images))[0]


def in_classes_of(engine: Engine, info: DatasetInfo, named: Mapping[str, str | None] | None) -> Engine:
    """The engine itself where its classes are those of the data or no partners are named, else one that maps them."""
    mapping = class_mapping(engine.labels.classes, info.classes, named)
    if mapping is None:
        return engine
    labels = LabelSpace(classes=info.classes, palette=info.palette)
    if isinstance(engine, ProbabilityEngine):
        return MappedProbabilityEngine(engine, mapping, labels)
    return MappedEngine(engine, mapping, labels)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _choices(names: Sequence[str]) -> str:
    return f"; choose one of {_list(names)}"
