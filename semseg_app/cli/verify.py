"""`semseg verify`: exported files against the trained network that they were made of."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from semseg_app.cli.model_option import Revision, writable_model
from semseg_app.errors import UserError


def verify(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A model folder, an .onnx file in it, or a Hub id, which is copied to ./repo.")
    ],
    data: Annotated[Path | None, typer.Option(help="Dataset whose photos and labels to verify with.")] = None,
    split: Annotated[str, typer.Option(help="Split or list of that dataset: one that was not trained on.")] = "val",
    limit: Annotated[int, typer.Option(min=1, help="Most images to measure the mIoU on, evenly spaced.")] = 200,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the exported files run.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; by default one per core that the process may use.")
    ] = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest's entries as JSON on stdout.")] = False,
) -> None:
    """Compare exported files with the trained network and write the verdicts to manifest.json. Exits with 1 when one
    is rejected."""
    from semseg_app.artifact import read_config
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.cli.gate_report import print_entry, rejection
    from semseg_app.cli.given import refuse_given
    from semseg_app.cli.progress import show_steps
    from semseg_app.export.manifest import record
    from semseg_app.export.verification_set import gather_photos
    from semseg_app.files import require_writable

    if data is None:
        refuse_given(context, ("split", "limit"), "belongs to --data DATASET")
    folder, files = _files(writable_model(model, revision))
    labels = read_config(folder).labels
    require_writable(folder)
    verification = gather_photos(labels, open_aloud(data), split, limit) if data else None
    show_steps("semseg_app.export")
    print(f"{folder}: verifying {', '.join(file.name for file in files)}", file=sys.stderr)
    try:
        from semseg_app.export.verify import verify as run
    except ModuleNotFoundError as error:
        raise UserError(f"verifying needs the package {error.name}: pip install 'semseg-app[export,cpu]'") from error
    entries = {}
    for file in files:
        entries[file] = run(folder, file, verification, device=device, threads=threads)
        record(folder, file, entries[file])
        print_entry(file, entries[file])
    if as_json:
        print(json.dumps([{"file": str(file), **entry} for file, entry in entries.items()], indent=2))
    rejected = [rejection(file, entry) for file, entry in entries.items() if entry["verdict"] == "rejected"]
    for line in rejected:
        typer.echo(line, err=True)
    if rejected:
        raise typer.Exit(1)


def _files(model: Path) -> tuple[Path, list[Path]]:
    """The model folder and its files that are to be verified."""
    from semseg_app.artifact import CONFIG
    from semseg_app.inference.engines.base import GRAPHS

    if model.is_file():
        folder = model.parent.parent
        if model.suffix != ".onnx" or not (folder / CONFIG).is_file():
            raise UserError(f"{model}: not an .onnx file in a model folder, whose trained weights it is compared with")
        return folder, [model]
    if not model.is_dir():
        raise UserError(f"{model}: no such model folder or .onnx file")
    files = [model / graph for graph in GRAPHS.values() if (model / graph).is_file()]
    if not files:
        raise UserError(f"{model}: holds no exported graph; run `semseg export {model}` first")
    return model, files
