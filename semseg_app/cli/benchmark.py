"""`semseg benchmark`: speed, memory and mIoU of models, engines and precisions, side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from semseg_app.cli.model_option import Revision

if TYPE_CHECKING:
    from semseg_app.benchmark import Scoring


def benchmark(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Model folders, exported files and Hub ids.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json, results.md and pareto.png.")],
    engine: Annotated[
        str,
        typer.Option(help="Some of torch,onnxruntime,openvino,tensorrt (default: all that run)."),
    ] = "",
    precision: Annotated[str, typer.Option(help="Some of fp32,fp16,int8 (default: all in the folder).")] = "",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the models run.")] = "auto",
    sizes: Annotated[str, typer.Option(help="Widths and heights, e.g. 512x512,480x360.")] = "512x512",
    batch_sizes: Annotated[str, typer.Option(help="Images per call, e.g. 1,4.")] = "1",
    concurrency: Annotated[str, typer.Option(help="Engines side by side, e.g. 1,4; they share the threads.")] = "1",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; by default one per core that the process may use.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each model.")] = 20,
    data: Annotated[Path | None, typer.Option(help="Dataset to measure the mIoU on.")] = None,
    split: Annotated[str, typer.Option(help="Split or list of that dataset.")] = "val",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most images to score, evenly spaced (default: all).")
    ] = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json on stdout.")] = False,
) -> None:
    """Measure models against each other: latency, throughput, memory, mIoU. Exits with 1 when some did not run."""
    import json

    from semseg_app import machine
    from semseg_app.benchmark import BenchmarkPlan
    from semseg_app.benchmark import benchmark as run
    from semseg_app.benchmark.report import describe, require_matplotlib, to_markdown, write
    from semseg_app.benchmark.variants import find_variants
    from semseg_app.cli.given import refuse_given
    from semseg_app.cli.progress import progress_bar
    from semseg_app.files import require_writable
    from semseg_app.hub.download import local_model

    if data is None:
        refuse_given(context, ("split", "limit"), "belongs to --data DATASET")
    named = {str(local_model(model, revision)): model for model in models}  # a Hub id keeps its name in the table
    found = find_variants(named, _names(engine), _names(precision), device)
    variants = [variant._replace(model=named[variant.model]) for variant in found]
    plan = BenchmarkPlan(
        sizes=_sizes(sizes),
        batch_sizes=_numbers("--batch-sizes", batch_sizes),
        concurrency=_numbers("--concurrency", concurrency),
        threads=threads or machine.threads(),
        rounds=rounds,
    )
    scoring = None
    if data is not None:
        require_matplotlib()
        scoring = _scoring(data, split, limit)
    require_writable(out)
    with progress_bar("measuring") as update:
        rows = run(variants, plan, scoring, update)
    report = describe(rows, plan, scoring, split)
    write(out, report, rows)
    typer.echo(json.dumps(report, indent=2) if as_json else to_markdown(report).strip())
    if failed := [row for row in rows if row.error]:
        typer.echo(f"semseg: {len(failed)} of {len(rows)} did not run: {failed[0].error}", err=True)
        raise typer.Exit(1)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(option: str, text: str) -> list[int]:
    from semseg_app.errors import UserError

    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise UserError(f"{option} {text}: whole numbers from 1 with commas between them, such as 1,4")
    return numbers


def _sizes(text: str) -> list[tuple[int, int]]:
    from semseg_app.errors import UserError

    try:
        pairs = [tuple(int(side) for side in part.split("x")) for part in text.split(",")]
    except ValueError:
        pairs = []
    if not pairs or not all(len(pair) == 2 and min(pair) > 0 for pair in pairs):
        raise UserError(f"--sizes {text}: width x height in pixels with commas between them, such as 512x512,480x360")
    return [(pair[0], pair[1]) for pair in pairs]


def _scoring(root: Path, split: str, limit: int | None) -> "Scoring":
    from semseg_app.benchmark import Scoring
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.data.listing import evenly_spaced
    from semseg_app.errors import UserError

    opened = open_aloud(root)
    samples = opened.samples(split)
    if not samples:
        raise UserError(f"{root}: {split} is empty; choose another split")
    return Scoring(opened, evenly_spaced(samples, limit or len(samples)))
