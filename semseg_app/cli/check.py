"""`semseg check DATA`: the dataset doctor."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer


def check(
    data: Annotated[Path, typer.Argument(help="A dataset folder, or a published dataset.")],
    layout: Annotated[str, typer.Option(help="auto, folder, photos, voc, cityscapes, ade20k, ...")] = "auto",
    fix_map: Annotated[
        Path | None, typer.Option(help="Write a dataset.yaml with the proposed label_map or color_map here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")] = False,
) -> None:
    """Read every photo and mask once and report what is wrong. Exit code 0 clean, 1 findings, 2 misuse."""
    from semseg_app.cli.check_report import print_report
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.cli.progress import progress_bar
    from semseg_app.data.check import check as examine
    from semseg_app.data.fix_map import write_proposal
    from semseg_app.errors import UserError

    if fix_map is not None and fix_map.exists():
        raise UserError(f"{fix_map}: exists; name a new file, nothing is changed in place")
    opened = open_aloud(data, layout)
    start = time.monotonic()
    with progress_bar("reading") as update:
        report = examine(opened, update)
    if as_json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        print_report(report, time.monotonic() - start)
    if fix_map is not None:
        if report.proposal is not None:
            write_proposal(fix_map, report.proposal)
            typer.echo(f"wrote {fix_map}: {'; '.join(report.proposal.reasons)}", err=True)
        else:
            typer.echo(f"no map is called for; {fix_map} was not written", err=True)
    if report.findings:
        raise typer.Exit(1)
