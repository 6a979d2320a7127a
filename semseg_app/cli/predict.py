"""`semseg predict`: segment images into masks, overlays and a table of class shares."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from semseg_app.cli.model_option import MODEL, Revision


def predict(
    model: Annotated[str, typer.Argument(help=MODEL)],
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help="Images, folders (searched below) or globs.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")],
    engine: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt"], typer.Option(help="What runs the model.")
    ] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where it runs.")] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "int8"], typer.Option(help="Which exported graph of the folder; auto is fp32.")
    ] = "auto",
    tile: Annotated[int, typer.Option(help="Longest side run at once, in pixels; 0 = never tile.")] = 1024,
    overlay: Annotated[bool, typer.Option(help="Also write the photo under the class colours.")] = True,
    revision: Revision = None,
    force: Annotated[bool, typer.Option("--force", help="Run a graph that verification rejected.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON on stdout.")] = False,
) -> None:
    """Segment images: OUT/masks/*.png, OUT/overlays/*.jpg, OUT/shares.csv."""
    import json
    from collections import deque
    from collections.abc import Iterator
    from functools import partial

    import numpy as np
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from semseg_app.data.dataset import read_image
    from semseg_app.errors import UserError
    from semseg_app.hub.download import local_model
    from semseg_app.inference.engines import open_engine
    from semseg_app.inference.inputs import find_images, result_names
    from semseg_app.inference.predictor import Predictor
    from semseg_app.inference.results import ResultFolder
    from semseg_app.inference.strips import is_large

    if tile and tile < 64:
        raise UserError(f"--tile {tile}: at least 64 pixels, or 0 for whole images")
    images = find_images(inputs, leave_out=out)
    loaded = open_engine(local_model(model, revision), engine, device, precision=precision, force=force)
    predictor = Predictor(
        loaded, tile or None, overlap=min(128, tile // 4), batch_size=1 if loaded.device == "cpu" else 4
    )
    results = ResultFolder(out, loaded.labels, overlay)
    console = Console(stderr=True, soft_wrap=True)
    failed: list[dict[str, str]] = []
    waiting: deque[tuple[Path, str, np.ndarray]] = deque()  # read, and not yet answered
    large: list[tuple[Path, str]] = []  # segmented by strips, after the others

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        done = progress.add_task("segmenting", total=len(images))

        def fail(path: Path, error: UserError) -> None:
            failed.append({"file": str(path), "error": str(error)})
            console.print(f"semseg: {error}", markup=False, highlight=False)

        def told(rows: TaskID, share: float) -> None:
            progress.update(rows, completed=share)

        def readable() -> Iterator[np.ndarray]:
            for path, name in zip(images, result_names(images), strict=True):
                if tile and is_large(path):
                    large.append((path, name))
                    continue
                progress.advance(done)
                try:
                    image = read_image(path)
                except UserError as error:
                    fail(path, error)
                    continue
                waiting.append((path, name, image))
                yield image

        for prediction in predictor.predict_many(readable()):
            results.add(*waiting.popleft(), prediction)
        for path, name in large:
            rows = progress.add_task(name, total=1.0)
            try:
                results.add_large(path, name, predictor, partial(told, rows))
            except UserError as error:
                fail(path, error)
            progress.remove_task(rows)
            progress.advance(done)
    order = {str(path): index for index, path in enumerate(images)}
    results.rows.sort(key=lambda row: order[row["file"]])
    results.write_shares()
    if as_json:
        report = {
            "model": loaded.name,
            "engine": loaded.kind,
            "device": loaded.device,
            "precision": loaded.precision,
            "images": results.rows,
            "shares": str(results.shares),
            "failed": failed,
        }
        print(json.dumps(report, indent=2))
    else:
        console.print(
            f"{len(results.rows)} images in {out} ({loaded.name}, {loaded.kind}, {loaded.device}, {loaded.precision})"
            + (f"; {len(failed)} failed" if failed else ""),
            markup=False,
            highlight=False,
        )
    if failed:
        raise typer.Exit(1)
