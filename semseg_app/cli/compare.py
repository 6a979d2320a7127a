"""`semseg compare`: runs side by side."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semseg_app.errors import UserError

if TYPE_CHECKING:
    from semseg_app.training.compare import Comparison, ComparisonRow


def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            help="A comparison (a YAML file, or the name of one that ships with the package) and key=value for all of "
            "its rows; or folders of finished runs."
        ),
    ],
    baseline: Annotated[str | None, typer.Option(help="The row that gains are relative to.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds to use in place of those in the file, e.g. 0,1.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--row", help="Of a comparison file only this row and the baseline; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs of a comparison file.")] = Path("runs/compare"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build every row, take one step, say what its whole run would take.")
    ] = False,
    generated: Annotated[
        bool, typer.Option("--generated", help="With --dry-run: on made-up photos of the dataset, without weights.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Also write a page of all runs here; for a comparison file OUT/report.html.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON on stdout.")] = False,
) -> None:
    """Train what a comparison file describes, or read finished runs, and print scores, gains, time and memory."""
    import json

    from semseg_app.cli.tables import print_table
    from semseg_app.training.presets import comparison_file

    if generated and not dry_run:
        raise UserError("--generated: made-up photos teach nothing; add --dry-run")
    overrides = [word for word in what if "=" in word]
    sources = [word for word in what if "=" not in word]
    file = None
    if len(sources) == 1 and not Path(sources[0]).is_dir():
        file = comparison_file(sources[0])  # an unknown name is refused before torch is imported
    elif overrides or only or dry_run:
        raise UserError("key=value, --row and --dry-run belong to one comparison file; finished runs are as they are")
    from semseg_app.training.compare import load_comparison, run_comparison, tabulate

    if file is not None:
        comparison = load_comparison(file, overrides, only or ())
        if seeds:
            comparison.seeds = _numbers(seeds)
        if dry_run:
            _dry_run(comparison, file, only or (), overrides, out, generated, as_json)
            return
        reports = run_comparison(comparison, out)
        baseline = baseline or comparison.baseline
        report = report or out / "report.html"
        folders = [Path(run["recipe"]["output"]) for runs in reports.values() for run in runs]
    else:
        folders = [Path(source) for source in sources]
        from semseg_app.training.finished_runs import read_runs
        from semseg_app.training.run.progress import to_stderr

        reports = read_runs(folders, to_stderr)
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


def _dry_run(
    comparison: "Comparison",
    file: Path,
    rows: Sequence[str],
    overrides: list[str],
    out: Path,
    generated: bool,
    as_json: bool,
) -> None:
    """One step of every row; what makes it small is left out of the projection."""
    import json

    from semseg_app.cli.tables import print_table
    from semseg_app.cli.train import SMALL
    from semseg_app.training.compare import load_comparison, recipes_of
    from semseg_app.training.dry_run import dry_run

    kept = [override for override in overrides if not override.startswith(SMALL)]
    whole = recipes_of(load_comparison(file, kept, rows), out, comparison.seeds[0])
    tried = recipes_of(comparison, out, comparison.seeds[0])
    reports = {row: dry_run(recipe, whole[row], generated) for row, recipe in tried.items()}
    if as_json:
        print(json.dumps(reports, indent=2))
        return
    lines = [
        (
            row,
            report["network"],
            f"{report['parameters'] / 1e6:.1f}",
            str(report["projected"]["steps"]),
            f"{report['projected']['hours']:.1f}",
            f"{report['projected']['memory_mb']}",
        )
        for row, report in reports.items()
    ]
    print_table(("row", "network", "million parameters", "steps", "hours", "MB"), lines, texts=2)


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
