"""`semseg data import`: an annotation tool's export becomes a dataset folder."""

import json
import time
from pathlib import Path
from typing import Annotated, Literal

import typer


def import_dataset(
    source: Annotated[Path, typer.Argument(help="The unpacked export of an annotation tool, or its annotation file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The dataset folder to write; must not exist yet.")],
    name: Annotated[
        str,
        typer.Option("--format", help="auto, coco, coco-panoptic, yolo, labelme, cvat, cvat-masks, label-studio, ..."),
    ] = "auto",
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder of the photos, where they do not lie with the export.")
    ] = None,
    classes: Annotated[str, typer.Option(help="The classes to keep, in order, e.g. road,car; default: all.")] = "",
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map", help="OLD=NEW, several times; NEW may be `ignore` or `background`, OLD `*` (all others)."
        ),
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="Class of pixels without an object, or `ignore`; default: as the format has it.")
    ] = None,
    overlap: Annotated[
        Literal["z-order", "largest-on-bottom", "last"] | None,
        typer.Option(help="Which of two overlapping objects is seen; default: as the tool draws them."),
    ] = None,
    unlabeled: Annotated[
        bool,
        typer.Option(help="Photos without an annotation go to unlabeled/; else they are background throughout."),
    ] = True,
    split: Annotated[
        str, typer.Option(help="`source`: the splits of the export; or the fraction that becomes val, e.g. 0.2.")
    ] = "source",
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of val.")] = 0,
    link: Annotated[
        bool, typer.Option("--link/--copy", help="Link to the photos where they lie, or copy them.")
    ] = False,
    skip_missing: Annotated[bool, typer.Option(help="Leave out annotations whose photo is missing.")] = False,
    annotator: Annotated[
        str | None, typer.Option(help="Whose annotations count (Label Studio: id or email); default: the majority.")
    ] = None,
    attribute: Annotated[
        str | None,
        typer.Option(help="The attribute that is the class, where regions have several (VGG Image Annotator)."),
    ] = None,
    vertices: Annotated[
        Literal["auto", "edges", "centers"],
        typer.Option(help="A polygon's corner is the edge of a pixel, or its middle as OpenCV traces; auto looks."),
    ] = "auto",
    check: Annotated[bool, typer.Option(help="Run `semseg check` on the new folder.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")] = False,
) -> None:
    """Turn labels from COCO, YOLO, LabelMe, CVAT, Label Studio, VIA, Roboflow or Supervisely into a dataset folder."""
    from semseg_app.cli.check_report import print_report
    from semseg_app.cli.progress import progress_bar
    from semseg_app.data.check import check as examine
    from semseg_app.data.dataset import open_folder
    from semseg_app.data.importers.annotated import ReadOptions
    from semseg_app.data.importers.dataset_writer import WriteOptions, write_dataset
    from semseg_app.data.importers.formats import read_export
    from semseg_app.data.importers.labels import choose_classes, parse_map
    from semseg_app.errors import UserError

    if out.exists():
        raise UserError(f"{out}: exists; name a new folder")
    wanted = [text.strip() for text in classes.split(",") if text.strip()]
    options = WriteOptions(
        overlap, vertices, unlabeled, _fraction(split), seed, "link" if link else "copy", skip_missing
    )
    export = read_export(source, name, images or [], ReadOptions(annotator, attribute, wanted))
    table = choose_classes(export, wanted, parse_map(mapping or []), background)
    with progress_bar("drawing masks") as update:
        report = write_dataset(export, table, out, options, update)
    if not as_json:
        print("\n".join([*report.lines(), f"wrote {out}"]))
    found = None
    if check:
        start = time.monotonic()
        with progress_bar("checking") as update:
            found = examine(open_folder(out), update)
        if not as_json:
            print()
            print_report(found, time.monotonic() - start)
    if as_json:
        print(json.dumps({"root": str(out), **report.to_dict(), "check": found.to_dict() if found else None}, indent=1))


def _fraction(text: str) -> float | None:
    from semseg_app.errors import UserError

    if text == "source":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise UserError(f"--split {text}: write `source`, or the fraction that becomes val, e.g. 0.2")
    return value
