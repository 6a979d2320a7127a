"""`semseg evaluate`: scores of a model on a labeled split."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from semseg_app.cli.model_option import ANY_MODEL, Revision, TeacherClasses, in_classes_of_data

if TYPE_CHECKING:
    from semseg_app.inference.evaluate import Evaluation


def evaluate(
    model: Annotated[str, typer.Argument(help=ANY_MODEL)],
    data: Annotated[Path, typer.Option(help="A dataset folder, or a published dataset as it was unpacked.")],
    split: Annotated[str, typer.Option(help="A split of the data, or one of its lists.")] = "val",
    slide: Annotated[int | None, typer.Option(metavar="WINDOW", help="Sliding windows of this side.")] = None,
    stride: Annotated[
        int | None, typer.Option(help="Pixels from one window to the next (default: two thirds of the window).")
    ] = None,
    scales: Annotated[str, typer.Option(help="Average over resized images, e.g. 0.75,1,1.25.")] = "1",
    flip: Annotated[bool, typer.Option("--flip", help="Average over mirrored images too.")] = False,
    short_side: Annotated[
        int | None, typer.Option(help="First resize photos so that their shorter side has so many pixels.")
    ] = None,
    long_side: Annotated[int | None, typer.Option(help="The same for the longer side.")] = None,
    engine: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt"], typer.Option(help="What runs the model.")
    ] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where it runs.")] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "int8"], typer.Option(help="Which exported graph of the folder; auto is fp32.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; by default one per core that the process may use.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the scores, the confusion matrix and the reliability diagram.")
    ] = None,
    teacher_classes: TeacherClasses = None,
    revision: Revision = None,
    force: Annotated[bool, typer.Option("--force", help="Run a rejected graph, or one of other weights.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON on stdout.")] = False,
) -> None:
    """Score a model on labeled images."""
    import json

    from semseg_app.cli.data_option import open_aloud
    from semseg_app.cli.progress import tracked
    from semseg_app.files import require_writable
    from semseg_app.hub.download import local_model
    from semseg_app.inference.engines.open import open_engine
    from semseg_app.inference.evaluate import EvaluationProtocol
    from semseg_app.inference.evaluate import evaluate as run

    path = local_model(model, revision)
    protocol = EvaluationProtocol(slide, stride, _parse_scales(scales), flip, short_side, long_side)
    opened = open_aloud(data)
    samples = opened.samples(split)
    if engine == "auto" and protocol.averages and path.is_dir():
        engine = "torch"
    loaded = open_engine(path, engine, device, threads, precision, force)
    loaded = in_classes_of_data(loaded, opened.info, teacher_classes)
    if out is not None:
        require_writable(out)
    shown = tracked(samples, "evaluating", len(samples))
    evaluation = run(loaded, opened, shown, protocol, batch_size=1 if loaded.device == "cpu" else 4)
    report = {
        "model": loaded.name,
        "engine": loaded.kind,
        "device": loaded.device,
        "precision": loaded.precision,
        "data": opened.info.name,
        "split": split,
        "data_fingerprint": opened.fingerprint(samples),
        **evaluation.to_json(),
    }
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print_table(evaluation, f"{loaded.name} on {opened.info.name} {split}")
    if out is not None:
        _write(out, evaluation, report)


def _parse_scales(text: str) -> tuple[float, ...]:
    from semseg_app.errors import UserError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--scales {text}: numbers with commas between them, such as 0.75,1,1.25") from None


def _print_table(evaluation: "Evaluation", title: str) -> None:
    from rich.console import Console

    from semseg_app.cli.tables import print_table
    from semseg_app.metrics.scores import METRICS

    def percent(value: float) -> str:
        return "-" if value != value else f"{100 * value:.2f}"  # NaN is what differs from itself

    scores = evaluation.scores
    by_class = scores.by_class
    columns = {"IoU %": by_class.iou, "accuracy %": by_class.accuracy, "label share %": by_class.label_share}
    rows = [
        [name, *(percent(value) for value in values)]
        for name, *values in zip(evaluation.classes, *columns.values(), strict=True)
    ]
    print_table(["class", *columns], rows, title)
    numbers = [f"{METRICS[name].title} {percent(value)}" for name, value in scores.values.items()]
    Console(highlight=False).print("   ".join([*numbers, f"{evaluation.images} images"]), soft_wrap=True)


def _write(folder: Path, evaluation: "Evaluation", report: dict[str, object]) -> None:
    import json

    from semseg_app.files import atomic_file
    from semseg_app.plots.figures import plot_confusion_matrix, plot_reliability

    matrix = {"rows": "label", "columns": "prediction", "classes": evaluation.classes}
    matrix |= {"counts": evaluation.scores.confusion.tolist()}
    for name, content in (("evaluation.json", report), ("confusion_matrix.json", matrix)):
        with atomic_file(folder / name) as part:
            part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    plot_confusion_matrix(evaluation.scores.confusion, evaluation.classes, folder / "confusion_matrix.png")
    plot_reliability(evaluation.scores.reliability, folder / "reliability.png")
