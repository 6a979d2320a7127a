"""`semseg report`: runs as web pages."""

from pathlib import Path
from typing import Annotated

import typer

from semseg_app.errors import UserError


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, finished or not.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The page; default report.html in the run, or in this folder for several."),
    ] = None,
) -> None:
    """Write a page that needs no network: of one run, or of several side by side."""
    from semseg_app.training.report.page import write_page
    from semseg_app.training.report.several import write_several

    if out is not None and out.suffix != ".html":
        raise UserError(f"{out}: the page is HTML; end its name in .html")
    print(write_page(runs[0], out) if len(runs) == 1 else write_several(runs, out or Path("report.html")))
