"""The part of `semseg check --model` that looks at masks with a model."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

if TYPE_CHECKING:
    from semseg_app.data.check import CheckReport
    from semseg_app.data.dataset import SegmentationData
    from semseg_app.inference.mask_review import MaskReview

MOST_RANKED = 10
"""Masks in the printed ranking; --json has them all."""


class ReviewOptions(NamedTuple):
    """What the command line says about the review."""

    model: str
    split: str
    sheet: Path | None
    worst: int
    engine: str
    device: str
    threads: int | None
    teacher_classes: Path | None
    revision: str | None


def review(data: "SegmentationData", report: "CheckReport", options: ReviewOptions) -> "MaskReview":
    """Compare the masks with the model, add what looks wrong to the report's notes, and write the page."""
    from semseg_app.cli.model_option import in_classes_of_data
    from semseg_app.cli.progress import progress_bar
    from semseg_app.data.exporters.dataset_pictures import labeled_splits
    from semseg_app.errors import UserError
    from semseg_app.hub.download import local_model
    from semseg_app.inference.engines.base import Engine
    from semseg_app.inference.mask_review import review_entries, review_masks
    from semseg_app.inference.model_threads import open_threads
    from semseg_app.labels import LabelSpace
    from semseg_app.plots.sheet import write_sheet

    names = [name.strip() for name in options.split.split(",") if name.strip()] or labeled_splits(data)
    samples = list(
        {sample.label: sample for name in names for sample in data.samples(name) if sample.label is not None}.values()
    )
    if not samples:
        raise UserError(f"{data.root}: has no masks to compare with {options.model}; choose another --split")

    def prepare(engine: Engine) -> Engine:
        return in_classes_of_data(engine, data.info, options.teacher_classes)

    path = local_model(options.model, options.revision)
    model = open_threads(path, options.engine, options.device, options.threads, prepare)
    with progress_bar("comparing masks") as update:
        reviewed = review_masks(model, data, samples, update)
    report.notes += [note for mask in reviewed.masks for note in mask.notes]
    page = options.sheet or Path(f"{data.root.absolute().name}-masks.html")
    labels = LabelSpace(classes=data.info.classes, palette=data.info.palette)
    intro = [
        f"{len(reviewed.masks):,} masks of {data.root}, compared with {model.first.name}; the lowest scores first.",
        "A model is no proof: look before you change a mask.",
    ]
    shown = min(options.worst, len(reviewed.masks))
    write_sheet(
        page, "Masks that look wrong", intro, labels, review_entries(model.first, data, labels, reviewed, shown)
    )
    for remark in reviewed.remarks:
        typer.echo(f"semseg: {remark}", err=True)
    typer.echo(f"wrote {page}", err=True)
    return reviewed


def print_ranking(reviewed: "MaskReview") -> None:
    """The masks of the lowest scores, and what looks wrong with each."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    count = len(reviewed.masks)
    console.print(Text(f"masks that agree least with the model ({min(count, MOST_RANKED)} of {count:,})", "bold"))
    for mask in reviewed.masks[:MOST_RANKED]:
        said = "; ".join(note.message for note in mask.notes)
        score = f"{mask.comparison.score:.3f}  {mask.comparison.agreement:4.0%} agree  "
        console.print(Text.assemble(f"    {score}", (mask.file, "cyan"), f"  {said}"), soft_wrap=True)
    console.print()
