"""What the verbs that take a MODEL share: the option beside it, and a folder to write into."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from semseg_app.data.dataset import DatasetInfo
    from semseg_app.inference.engines.base import Engine

MODEL = "A model folder, a run folder (its best model), an .onnx file or a Hub id (user/repo)."
ANY_MODEL = (
    "A model folder, a run folder (its best model), an .onnx file, a segmentation model of transformers, or a Hub id "
    "(user/repo)."
)
TeacherClasses = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="YAML lines `model's class: data's class`, for a model of other classes."),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where it runs.")]
ModelThreads = Annotated[
    int | None, typer.Option(min=1, help="Threads, each with a copy of the model; default: one per core, 8 at most.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or, best, commit of a model on the Hub.")]


def writable_model(model: str, revision: str | None) -> Path:
    """The model for a verb that writes beside it. A Hub id is copied into the folder ./repo first, once."""
    from semseg_app.artifact import model_folder
    from semseg_app.errors import UserError
    from semseg_app.hub.download import HubId, pull

    named = None if os.path.lexists(model) else HubId.parse(model)
    if named is None:
        if revision is not None:
            raise UserError(f"--revision {revision}: is for models of the Hub, and {model} is on this machine")
        return model_folder(Path(model))
    folder = Path(named.repo.partition("/")[2])
    pull(model, folder, revision, only_ours=True)
    print(f"semseg: {model} was copied to {folder}, which is written to", file=sys.stderr)
    return folder


def in_classes_of_data(engine: "Engine", info: "DatasetInfo", teacher_classes: Path | None) -> "Engine":
    """The engine, in the classes of the data where `--teacher-classes` names partners.

    Classes without a partner are named on stderr.
    """
    from semseg_app.inference.class_mapping import MappedEngine, in_classes_of, read_teacher_classes

    mapped = in_classes_of(engine, info, read_teacher_classes(teacher_classes))
    if isinstance(mapped, MappedEngine) and mapped.mapping.warning:
        print(f"semseg: warning: {mapped.mapping.warning}", file=sys.stderr)
    return mapped
