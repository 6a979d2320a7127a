"""`semseg export`: a model folder -> a deployed graph, verified against the trained network."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from semseg_app.errors import UserError

AVAILABLE = {"onnx": ("fp32",)}
"""--to -> --precision."""


def export(
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    to: Annotated[str, typer.Option("--to", help="Format of the exported file: onnx.")] = "onnx",
    precision: Annotated[str, typer.Option(help="Arithmetic of the exported file: fp32.")] = "fp32",
    data: Annotated[Path | None, typer.Option(help="Dataset whose photos and labels to verify with.")] = None,
    split: Annotated[str, typer.Option(help="Split or list of that dataset.")] = "val",
    limit: Annotated[int, typer.Option(min=1, help="Most images to measure the mIoU on, evenly spaced.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest's entry as JSON on stdout.")] = False,
) -> None:
    """Export a model, verify it against the trained weights and write manifest.json. Exits with 1 when rejected."""
    if precision not in AVAILABLE.get(to, ()):
        offers = ", ".join(f"--to {name} --precision {one}" for name, many in AVAILABLE.items() for one in many)
        raise UserError(f"cannot export --to {to} --precision {precision}; available: {offers}")
    try:
        from semseg_app.export.onnx import export_onnx
        from semseg_app.export.verify import gather_evidence, record, verify
    except ModuleNotFoundError as error:
        raise UserError(f"exporting needs the package {error.name}: pip install 'semseg-app[export,cpu]'") from error
    from semseg_app.artifact import read_config
    from semseg_app.data.layouts import open_dataset

    labels = read_config(model).labels
    evidence = gather_evidence(labels, open_dataset(data), split, limit) if data else None
    exported_file = export_onnx(model)
    entry = verify(model, exported_file, evidence)
    record(model, exported_file, entry)
    _print_table(exported_file, entry)
    if as_json:
        print(json.dumps({"file": str(exported_file), **entry}, indent=2))
    if entry["verdict"] == "rejected":
        first, *others = entry["reasons"]
        more = f" (and {len(others)} more in manifest.json)" if others else ""
        typer.echo(f"semseg: {exported_file}: rejected: {first}{more}", err=True)
        raise typer.Exit(1)


def _print_table(exported_file: Path, entry: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in ("size", "batch", "same class", "confidence off by"):
        table.add_column(heading, justify="right")
    for row in entry["by_size"]:
        size, batch = f"{row['width']}x{row['height']}", str(row["batch"])
        if "error" in row:
            table.add_row(size, batch, "does not run", "")
        else:
            table.add_row(size, batch, f"{row['agreement']:.4%}", f"{row['confidence_difference']} of 255")
    console = Console(stderr=True)
    console.print(f"{exported_file} against the trained network, {entry['photos']} photos:")
    console.print(table)
    if "miou" in entry:
        miou = entry["miou"]
        console.print(f"mIoU {miou['trained']:.2%} trained, {miou['exported']:.2%} exported, {miou['images']} images")
    if "latency_ms" in entry:
        latency = entry["latency_ms"]
        size = f"{latency['width']}x{latency['height']}"
        console.print(f"{latency['median']:.1f} ms a photo of {size}, {latency['threads']} threads, {entry['device']}")
    console.print(f"verdict: {entry['verdict']}")
