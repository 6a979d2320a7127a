"""`semseg data export`: masks, or a model's predictions, for an annotation tool."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from semseg_app.cli.model_option import MODEL, Revision

if TYPE_CHECKING:
    from semseg_app.data.dataset import SegmentationData
    from semseg_app.data.exporters.export import ExportReport


def export_data(
    source: Annotated[Path, typer.Argument(help="A dataset; with --model also a folder of photos.")],
    to: Annotated[
        Literal["coco", "cvat", "label-studio", "labelme", "yolo"], typer.Option(help="The annotation tool's format.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write; must not exist yet.")],
    model: Annotated[
        str | None, typer.Option(help=f"Export the predictions of this model instead of masks. {MODEL}")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Splits or lists, e.g. train,val; default: all with masks, with --model all photos.")
    ] = "",
    shapes: Annotated[
        Literal["polygons", "masks"],
        typer.Option(help="`polygons`: what has holes is a mask, where the tool has masks. `masks`: exact."),
    ] = "polygons",
    tolerance: Annotated[
        float, typer.Option(min=0, help="Pixels by which polygons may differ from the mask; 0 keeps every corner.")
    ] = 1.0,
    min_area: Annotated[int, typer.Option(min=0, help="Give parts of fewer pixels to the class around them.")] = 0,
    leave_out: Annotated[list[str] | None, typer.Option(help="A class that gets no shapes; several times.")] = None,
    link: Annotated[bool, typer.Option("--link/--copy", help="Link to the photos, or copy them.")] = False,
    url_prefix: Annotated[
        str | None, typer.Option(help="Label Studio: what goes before images/<split>/x.jpg in the tasks.")
    ] = None,
    engine: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt"], typer.Option(help="What runs the model.")
    ] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where it runs.")] = "auto",
    revision: Revision = None,
    layout: Annotated[str, typer.Option(help="auto, folder, photos, voc, cityscapes, ade20k, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON on stdout.")] = False,
) -> None:
    """Write masks, or a model's predictions, for COCO, CVAT, Label Studio, LabelMe or YOLO, so that people correct."""
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.cli.progress import progress_bar
    from semseg_app.data.exporters.dataset_pictures import dataset_pictures, labeled_splits
    from semseg_app.data.exporters.export import LOCAL_FILES, ExportOptions, export_labels
    from semseg_app.data.exporters.formats import FORMATS
    from semseg_app.errors import UserError
    from semseg_app.labels import LabelSpace

    if out.exists():
        raise UserError(f"{out}: exists; name a new folder")
    if url_prefix is not None and to != "label-studio":
        raise UserError(f"--url-prefix is for --to label-studio; {FORMATS[to].title} has no addresses")
    prefix = LOCAL_FILES if url_prefix is None else url_prefix
    options = ExportOptions(shapes, tolerance, min_area, tuple(leave_out or ()), link, prefix)
    data = open_aloud(source, layout) if model is None else _photos(source, layout)
    wanted = [name.strip() for name in split.split(",") if name.strip()]
    names = wanted or (labeled_splits(data) if model is None else list(data.folders))
    if not names:
        raise UserError(f"{source}: has no masks to export; export the predictions of a model with --model")
    samples_of = data.samples if wanted else (lambda name: data.folders[name].samples())
    samples = [(name, sample) for name in names for sample in samples_of(name)]
    if model is None:
        labels = LabelSpace(classes=data.info.classes, palette=data.info.palette)
        options.check(to, labels)
        pictures = dataset_pictures(data, samples)
    else:
        from semseg_app.hub.download import local_model
        from semseg_app.inference.engines.open import open_engine
        from semseg_app.inference.pre_annotations import predicted_pictures

        loaded = open_engine(local_model(model, revision), engine, device)
        labels = loaded.labels
        options.check(to, labels)
        pictures = predicted_pictures(loaded, samples)
    done = 0
    with progress_bar("writing") as update:

        def count() -> None:
            nonlocal done
            done += 1
            update(done, len(samples))

        report = export_labels(pictures, labels, to, out, options, count)
    back = f"semseg data import {out} -o FOLDER --background {leave_out[0] if leave_out else 'ignore'}"
    if as_json:
        print(json.dumps({"folder": str(out), "format": to, **asdict(report), "import": back}, indent=1))
        return
    print("\n".join(_lines(report, to, out, options.leave_out)))
    typer.echo(f"in the tool: {FORMATS[to].next_step}\nback again: {back}", err=True)


def _photos(source: Path, layout: str) -> "SegmentationData":
    """A dataset, or any folder of photos: a model needs no masks."""
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.errors import UserError

    if layout != "auto":
        return open_aloud(source, layout)
    try:
        return open_aloud(source)
    except UserError:
        if (source / "dataset.yaml").exists():
            raise
        return open_aloud(source, "photos")


def _lines(report: "ExportReport", to: str, out: Path, left_out: tuple[str, ...]) -> list[str]:
    from semseg_app.data.exporters.formats import FORMATS

    lines = [
        f"{out}: {FORMATS[to].title}, {report.photos:,} photos, {report.labeled:,} of them with shapes: "
        f"{report.polygons:,} polygons, {report.masks:,} masks"
    ]
    if report.bridged:
        lines.append(f"{report.bridged:,} polygons have holes; the format has none, so bridges lead to them")
    if report.merged:
        lines.append(f"{report.merged:,} parts smaller than --min-area went to the class around them")
    if report.ignored:
        what = f"come back as {left_out[0]}" if left_out else "are in no shape"
        lines.append(f"{report.ignored:,} photos have ignored pixels, which {what}")
    return lines
