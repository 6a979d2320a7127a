"""`semseg check DATA`: the dataset doctor."""

import json
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from semseg_app.cli.model_option import MODEL, Device, ModelThreads, Revision, TeacherClasses


def check(
    data: Annotated[Path, typer.Argument(help="A dataset folder, or a published dataset.")],
    layout: Annotated[str, typer.Option(help="auto, folder, photos, voc, cityscapes, ade20k, ...")] = "auto",
    fix_map: Annotated[
        Path | None, typer.Option(help="Write a dataset.yaml with the proposed label_map or color_map here.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help=f"Also rank the masks by how much this model disagrees with them. {MODEL}")
    ] = None,
    split: Annotated[str, typer.Option(help="With --model: splits or lists, e.g. train,val; default: all masks.")] = "",
    sheet: Annotated[
        Path | None, typer.Option(help="With --model: the page of suspicious masks; default DATA-masks.html.")
    ] = None,
    worst: Annotated[int, typer.Option(min=1, help="With --model: how many masks the page shows.")] = 24,
    engine: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt"],
        typer.Option(help="What runs the model; auto is torch for a model folder, which gives probabilities."),
    ] = "auto",
    device: Device = "auto",
    threads: ModelThreads = None,
    teacher_classes: TeacherClasses = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")] = False,
) -> None:
    """Read every photo and mask once and report what is wrong. Exit code 0 clean, 1 findings, 2 misuse.

    With --model, masks that look wrong to a trained model are ranked and shown on a page. They are notes: a model is no
    proof.
    """
    from semseg_app import machine
    from semseg_app.cli.check_model import ReviewOptions, print_ranking, review
    from semseg_app.cli.check_report import print_report
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.cli.progress import progress_bar
    from semseg_app.data.check import check as examine
    from semseg_app.data.fix_map import write_proposal
    from semseg_app.errors import UserError

    if fix_map is not None and fix_map.exists():
        raise UserError(f"{fix_map}: exists; name a new file, nothing is changed in place")
    if model is None and (split or sheet is not None):
        raise UserError("--split and --sheet are for --model; name a model")
    opened = open_aloud(data, layout)
    start = time.monotonic()
    with progress_bar("reading") as update:
        report = examine(opened, update, processes=machine.cores())
    seconds = time.monotonic() - start
    reviewed = None
    if model is not None:
        options = ReviewOptions(model, split, sheet, worst, engine, device, threads, teacher_classes, revision)
        reviewed = review(opened, report, options)
    if as_json:
        ranking = {"model": model, "masks": reviewed.to_json()} if reviewed else {}
        print(json.dumps(report.to_dict() | ranking, indent=1))
    else:
        print_report(report, seconds)
        if reviewed:
            print_ranking(reviewed)
    if fix_map is not None:
        if report.proposal is not None:
            write_proposal(fix_map, report.proposal)
            typer.echo(f"wrote {fix_map}: {'; '.join(report.proposal.reasons)}", err=True)
        else:
            typer.echo(f"no map is called for; {fix_map} was not written", err=True)
    if report.findings:
        raise typer.Exit(1)
