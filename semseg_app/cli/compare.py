"""`semseg compare`: runs side by side."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semseg_app.errors import UserError

if TYPE_CHECKING:
    from semseg_app.training.compare import ComparisonRow


def compare(
    what: Annotated[list[Path], typer.Argument(help="A comparison file (YAML), or folders of finished runs.")],
    baseline: Annotated[str | None, typer.Option(help="The row that gains are relative to.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds to use in place of those in the file, e.g. 0,1.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs of a comparison file.")] = Path("runs/compare"),
    report: Annotated[
        Path | None, typer.Option(help="Also write a page of all runs here; for a comparison file OUT/report.html.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON on stdout.")] = False,
) -> None:
    """Train what a comparison file describes, or read finished runs, and print scores, gains, time and memory."""
    import json

    from semseg_app.cli.tables import print_table
    from semseg_app.training.compare import load_comparison, read_runs, run_comparison, tabulate

    if len(what) == 1 and what[0].suffix in (".yaml", ".yml"):
        comparison = load_comparison(what[0])
        if seeds:
            comparison = comparison.model_copy(update={"seeds": _numbers(seeds)})
        reports = run_comparison(comparison, out)
        baseline = baseline or comparison.baseline
        report = report or out / "report.html"
        folders = [Path(run["recipe"]["output"]) for runs in reports.values() for run in runs]
    else:
        reports = read_runs(what)
        folders = what
    rows = tabulate(reports, baseline)
    if report is not None:
        from semseg_app.training.report.several import write_several

        print(f"report: {write_several(folders, report)}", file=sys.stderr)
    if as_json:
        print(json.dumps([row._asdict() | {"deviation": row.deviation} for row in rows], indent=2))
    elif markdown:
        print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
        for row in rows:
            print("| " + " | ".join(_cells(row)) + " |")
    else:
        print_table(COLUMNS, [_cells(row) for row in rows])


def _numbers(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise UserError(f"--seeds {seeds}: give numbers separated by commas, as in 0,1,2") from None


COLUMNS = ("row", "seeds", "steps", "val mIoU %", "gain", "seconds", "peak MB")


def _cells(row: "ComparisonRow") -> list[str]:
    mean = sum(row.scores) / len(row.scores)
    spread = f" ± {row.deviation:.1f}" if len(row.scores) > 1 else ""
    gain = "" if row.gain is None else f"{row.gain:+.1f}"
    cells = [row.name, len(row.scores), row.steps, f"{mean:.1f}{spread}", gain, f"{row.seconds:.0f}"]
    return [*(str(cell) for cell in cells), f"{row.memory_mb:.0f}"]
