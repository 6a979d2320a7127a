"""`semseg demo`: the whole walk on generated streets, in minutes: data, teacher, student, engine, server."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

HEIGHT, WIDTH = 192, 256
IMAGES = 256
EXAMPLES = 8


def demo(
    folder: Annotated[Path, typer.Option(help="Where everything goes; what it holds already is used.")] = Path("demo"),
    no_serve: Annotated[bool, typer.Option("--no-serve", help="Stop after the result table.")] = False,
    images: Annotated[
        int | None, typer.Option(min=8, help=f"Training streets, {IMAGES}; a quarter as many for validation.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of each network, instead of the preset's.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 7860,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result table as JSON on stdout.")] = False,
) -> None:
    """Generate streets, train a teacher and a student, export and verify the student, then serve it."""
    from semseg_app.cli.progress import progress_bar, show_steps
    from semseg_app.data.layouts import open_dataset
    from semseg_app.errors import UserError
    from semseg_app.export.pipeline import export_verified
    from semseg_app.export.verification_set import ExportData
    from semseg_app.inference.engines.open import open_engine
    from semseg_app.serve.config import ServeConfig
    from semseg_app.serve.server import claim_address, run_server
    from semseg_app.synthetic import generate

    address = None if no_serve else claim_address(host, port)  # a port in use is an error now, not in minutes
    streets = folder / "streets"
    if not streets.exists():
        train = images or IMAGES
        with progress_bar("drawing streets") as update:
            generate(streets, train=train, val=train // 4, size=(HEIGHT, WIDTH), workers=2, progress=update)
    elif images not in (None, drawn := len(open_dataset(streets).samples("train"))):
        raise UserError(f"{streets}: holds {drawn} training streets, not {images}; choose another --folder")
    chosen = [f"data.root={streets}"]
    if steps:
        chosen += [f"schedule.steps={steps}", "schedule.warmup=0"]
    teacher = _train("demo-teacher", folder / "teacher", chosen, steps)
    student = _train("demo-student", folder / "student", [*chosen, f"method.teacher={teacher}"], steps)
    show_steps("semseg_app.export")
    dataset = ExportData(open_dataset(streets), "val", limit=64)
    ((_, entry),) = export_verified(student, "fp32", dataset)
    rows = [
        _score("teacher", teacher, "torch", streets),
        _score("student", student, "torch", streets),
        _score("student, exported", student, "onnxruntime", streets),
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _print_scores(rows)
    if entry["verdict"] != "passed":
        raise UserError(f"{student}: the exported graph was rejected; see {student / 'manifest.json'}")
    if address is not None:
        examples = tuple(sorted((streets / "images" / "val").iterdir())[:EXAMPLES])
        run_server(open_engine(student, "onnxruntime"), address, ServeConfig(examples=examples))


def _train(preset: str, output: Path, overrides: list[str], steps: int | None) -> Path:
    """Train a preset, or go on where an interrupted demo stopped, or take the finished run. -> its model folder.

    UserError when the finished run has not so many `steps`; None = any.
    """
    from semseg_app.errors import UserError
    from semseg_app.training.loop import train
    from semseg_app.training.recipe import load_recipe

    report = output / "report.json"
    if not report.exists():
        train(load_recipe(preset, [*overrides, f"output={output}"]), resume=(output / "checkpoints").exists())
        return output / "best"
    trained = json.loads(report.read_text("utf-8"))["recipe"]["schedule"]["steps"]
    if steps not in (None, trained):
        raise UserError(f"{output}: was trained for {trained} steps, not {steps}; choose another --folder")
    print(f"{output}: is trained already, for {trained} steps", file=sys.stderr)
    return output / "best"


def _score(name: str, model: Path, kind: str, streets: Path) -> dict[str, Any]:
    """mIoU, size and speed of one engine."""
    import time

    from semseg_app.artifact import WEIGHTS
    from semseg_app.data.layouts import open_dataset
    from semseg_app.inference.engines.base import GRAPH
    from semseg_app.inference.engines.open import open_engine
    from semseg_app.inference.evaluate import evaluate

    engine = open_engine(model, kind)
    data = open_dataset(streets)
    samples = data.samples("val")
    scores = evaluate(engine, data, samples, metrics=("miou", "pixel_accuracy")).scores
    photo = data.read_image(samples[0])[None]
    times = []
    for _ in range(15):
        start = time.perf_counter()
        engine.infer(photo)
        times.append(time.perf_counter() - start)
    file = model / (WEIGHTS if kind == "torch" else GRAPH)
    return {
        "model": name,
        "engine": f"{engine.kind} {engine.precision} on {engine.device}",
        "miou": scores.values["miou"],
        "pixel_accuracy": scores.values["pixel_accuracy"],
        "megabytes": file.stat().st_size / 1e6,
        "milliseconds": 1000 * sorted(times)[len(times) // 2],
    }


def _print_scores(rows: list[dict[str, Any]]) -> None:
    from semseg_app.cli.tables import print_table

    columns = ("model", "engine", "val mIoU", "pixel accuracy", "MB", "ms per image")
    lines = [
        [
            row["model"],
            row["engine"],
            *(f"{100 * row[score]:.1f} %" for score in ("miou", "pixel_accuracy")),
            *(f"{row[measure]:.1f}" for measure in ("megabytes", "milliseconds")),
        ]
        for row in rows
    ]
    print_table(columns, lines, f"generated val streets, {WIDTH}x{HEIGHT}", texts=2)
