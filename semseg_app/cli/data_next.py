"""`semseg data next`: which photos to label next."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from semseg_app.cli.model_option import ANY_MODEL, Device, ModelThreads, Revision

if TYPE_CHECKING:
    from semseg_app.data.dataset import SegmentationData
    from semseg_app.inference.engines.base import Engine
    from semseg_app.inference.next_photos import NextPhotos

MOST_NAMED = 3
"""Unreadable photos that are named on stderr; --json names all."""


def next_labels(
    model: Annotated[str, typer.Argument(help=ANY_MODEL)],
    data: Annotated[Path, typer.Argument(help="A dataset folder, or a published dataset.")],
    count: Annotated[int, typer.Option(min=1, help="How many photos.")],
    strategy: Annotated[
        Literal[
            "cluster-uncertainty",
            "random",
            "entropy",
            "margin",
            "disagreement",
            "typiclust",
            "probcover",
            "coreset",
        ],
        typer.Option(help="How they are chosen; `disagreement` is between a photo and its mirror image."),
    ] = "cluster-uncertainty",
    unlabeled: Annotated[
        str | None,
        typer.Option("--list", help="A split, list or expression to choose from; default: photos without a mask."),
    ] = None,
    labeled: Annotated[
        str | None, typer.Option(help="A split, list or expression that is labeled; default: photos with a mask.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the list in splits/; default next-COUNT.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="The page of thumbnails; default splits/NAME.html.")] = None,
    tasks: Annotated[
        Literal["label-studio", "cvat"] | None,
        typer.Option(help="Also write the photos, with predictions, for a tool."),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder of --tasks; default NAME-TOOL.")] = None,
    url_prefix: Annotated[
        str | None, typer.Option(help="Label Studio: what goes before images/<split>/x.jpg in the tasks.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random draws.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a list of other content.")] = False,
    engine: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt"],
        typer.Option(help="What runs the model; auto is torch for a model folder, which gives features."),
    ] = "auto",
    device: Device = "auto",
    threads: ModelThreads = None,
    revision: Revision = None,
    layout: Annotated[str, typer.Option(help="auto, folder, photos, voc, cityscapes, ade20k, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON on stdout.")] = False,
) -> None:
    """Choose the photos whose labels a model needs most: a list, a page of thumbnails, tasks for an annotation tool.

    Near-duplicates, such as neighboring frames of a video, are never chosen together. The same command chooses the
    same photos.
    """
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.cli.progress import progress_bar
    from semseg_app.data.splits import write_lists
    from semseg_app.errors import UserError
    from semseg_app.hub.download import local_model
    from semseg_app.inference.model_threads import open_threads
    from semseg_app.inference.next_photos import next_photos, sheet_entries
    from semseg_app.inference.photo_pool import needs_model
    from semseg_app.plots.sheet import write_sheet

    title = name or f"next-{count}"
    folder = out or Path(f"{title}-{tasks}")
    if (out is not None or url_prefix is not None) and tasks is None:
        raise UserError("--out and --url-prefix are for --tasks; add --tasks label-studio or --tasks cvat")
    if url_prefix is not None and tasks != "label-studio":
        raise UserError("--url-prefix is for --tasks label-studio; CVAT has no addresses")
    if tasks and folder.exists():
        raise UserError(f"{folder}: exists; name a new folder with -o")
    dataset = open_aloud(data, layout)
    listing = dataset.list_path(title)
    if title in dataset.folders:
        raise UserError(f"--name {title}: is a split of the dataset; choose another name")
    page = sheet or listing.with_suffix(".html")
    opened = open_threads(local_model(model, revision), engine, device, threads if needs_model(strategy) else 1)
    with progress_bar("looking at photos") as update:
        choice = next_photos(dataset, opened, count, strategy, unlabeled, labeled, seed, update)
    write_lists(dataset, {title: choice.samples}, force, other_name="--name gives the list another name")
    intro = [_summary(choice, strategy), f"Chosen by {opened.first.name} from {dataset.root}, list {title}."]
    write_sheet(page, f"{count} photos to label next", intro, opened.first.labels, sheet_entries(opened.first, choice))
    if tasks:
        _write_tasks(opened.first, dataset, choice, tasks, folder, url_prefix)
    answer: dict[str, Any] = {
        "root": str(dataset.root),
        "list": title,
        "strategy": strategy,
        "seed": seed,
        "considered": choice.considered,
        "labeled": choice.labeled,
        "near_duplicates": choice.near_duplicates,
        "unreadable": choice.unreadable,
        "remarks": choice.remarks,
        "photos": [
            {"stem": sample.stem, "photo": str(sample.image), "uncertainty": value}
            for sample, value in zip(choice.samples, choice.uncertainty, strict=True)
        ],
        "files": {"list": str(listing), "sheet": str(page)} | ({"tasks": str(folder)} if tasks else {}),
    }
    for remark in choice.remarks:
        typer.echo(f"semseg: {remark}", err=True)
    for line in choice.unreadable[:MOST_NAMED]:
        typer.echo(f"semseg: warning: left out: {line}", err=True)
    if len(choice.unreadable) > MOST_NAMED:
        typer.echo(f"semseg: warning: {len(choice.unreadable) - MOST_NAMED:,} more cannot be read", err=True)
    if as_json:
        print(json.dumps(answer, indent=1))
        return
    for sample, value in zip(choice.samples, choice.uncertainty, strict=True):
        print(sample.stem if value is None else f"{sample.stem}  {value:.3f}")
    typer.echo(f"{_summary(choice, strategy)}\nwrote {', '.join(answer['files'].values())}", err=True)


def _summary(choice: "NextPhotos", strategy: str) -> str:
    near = f", {choice.near_duplicates:,} of them near-duplicates of another one" if choice.near_duplicates else ""
    return f"{len(choice.samples):,} of {choice.considered:,} photos without a label{near}; strategy {strategy}."


def _write_tasks(
    engine: "Engine",
    data: "SegmentationData",
    choice: "NextPhotos",
    tool: str,
    folder: Path,
    url_prefix: str | None,
) -> None:
    from semseg_app.cli.progress import progress_bar
    from semseg_app.data.exporters.export import LOCAL_FILES, ExportOptions, export_labels
    from semseg_app.inference.pre_annotations import predicted_pictures

    split_of = {sample.image: split for split, files in data.folders.items() for sample in files.samples()}
    pairs = [(split_of[sample.image], sample) for sample in choice.samples]
    done = 0
    with progress_bar("writing tasks") as update:

        def count() -> None:
            nonlocal done
            done += 1
            update(done, len(pairs))

        options = ExportOptions(url_prefix=LOCAL_FILES if url_prefix is None else url_prefix)
        export_labels(predicted_pictures(engine, pairs), engine.labels, tool, folder, options, count)
