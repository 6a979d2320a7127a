"""`semseg plot`'s verbs that look into a run: its pseudo labels, their calibration, the distance from its teacher."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from semseg_app.cli.model_option import Device
from semseg_app.cli.plot import Out, Photos, Seed, Split, finish, spread
from semseg_app.errors import UserError

if TYPE_CHECKING:
    from semseg_app.training.plots.pseudo_labels import LabeledCrops
    from semseg_app.training.run.trained import Trained

RUN = "A run folder; its newest checkpoint is looked at."
Runs = Annotated[list[Path], typer.Argument(help=f"One or more to set side by side. {RUN}")]
Moved = Annotated[Path | None, typer.Option("--data", help="The dataset, where the runs' own place is not right.")]


def pseudo_labels(
    run: Annotated[Path, typer.Argument(help=RUN)],
    out: Out,
    data: Moved = None,
    split: Split = "val",
    photos: Photos = 4,
    device: Device = "auto",
) -> None:
    """Show labeled photos as a run sees unlabeled ones: its views, every part of its pseudo labels, and the truth."""
    from semseg_app.plots.canvas import check_plot_file

    check_plot_file(out)
    from semseg_app.inference.engines.torch import resolve_device
    from semseg_app.labels import LabelSpace
    from semseg_app.plots.photo_grid import draw_photo_grid
    from semseg_app.training.plots.pseudo_labels import labeled_crops, part_numbers

    trained = _trained(run, data)
    info = trained.data.info
    labels = LabelSpace(classes=info.classes, palette=info.palette)
    rows, numbers, titles = [], [], list[str]()
    for crops in labeled_crops(trained, spread(trained.data.samples(split), photos), run, resolve_device(device)):
        for index in range(len(crops.names)):
            titles, row = _views(crops, index, labels)
            rows.append(row)
            numbers.append(part_numbers(crops, index))
    draw_photo_grid(out, titles, rows, labels)
    about = {"run": str(run), "method": trained.recipe.method.name, "step": trained.step}
    finish(out, "pseudo-labels", {**about, "data": info.name, "split": split, "photos": numbers})


def calibration(
    runs: Runs,
    out: Out,
    data: Moved = None,
    split: Split = "val",
    device: Device = "auto",
) -> None:
    """Draw reliability diagrams of pseudo labels: one for each of their parts, such as decoder, CAM and fusion."""
    from semseg_app.cli.progress import tracked
    from semseg_app.plots.canvas import check_plot_file
    from semseg_app.plots.figures import plot_reliabilities

    check_plot_file(out)
    from semseg_app.inference.engines.torch import resolve_device
    from semseg_app.training.plots.pseudo_labels import labeled_crops, reliability

    diagrams, numbers = [], []
    for run in runs:
        trained = _trained(run, data)
        samples = trained.data.samples(split)
        size = trained.recipe.unlabeled_batch_size or trained.recipe.batch_size
        crops = labeled_crops(trained, samples, run, resolve_device(device))
        parts = reliability(tracked(crops, "labeling", -(-len(samples) // size)))
        name = f"{run}\n" if len(runs) > 1 else ""
        diagrams.append(
            [(f"{name}{part}: error {100 * it.error.result():.1f} %", it.error.bins()) for part, it in parts.items()]
        )
        about: dict[str, Any] = {"run": str(run), "method": trained.recipe.method.name, "step": trained.step}
        about |= {"data": trained.data.info.name, "photos": len(samples)}
        numbers.append({**about, "parts": {part: it.to_json() for part, it in parts.items()}})
    plot_reliabilities(diagrams, out)
    finish(out, "calibration", {"split": split, "runs": numbers})


def distances(
    runs: Runs,
    out: Out,
    data: Moved = None,
    splits: Annotated[str, typer.Option(help="Splits or lists, with commas between them.")] = "train,val",
    compare: Annotated[
        Literal["features", "logits"],
        typer.Option("--map", help="features: the first map that a distiller aligns; logits: the class scores."),
    ] = "features",
    groups: Annotated[
        int | None, typer.Option(min=1, help="Groups of channels (default: 16 for features, 1 for logits).")
    ] = None,
    norm: Annotated[Literal["l1", "l2"], typer.Option(help="Norm of the difference of two vectors.")] = "l1",
    photos: Annotated[int, typer.Option(min=1, help="Most photos of a split, spread evenly over it.")] = 500,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Draw how far students are from their teachers, pixel by pixel and channel group by group (Af-DCD)."""
    from semseg_app.cli.progress import tracked
    from semseg_app.plots.canvas import check_plot_file
    from semseg_app.plots.spread import draw_distances

    check_plot_file(out)
    from semseg_app.inference.engines.torch import resolve_device
    from semseg_app.training.plots import distances as fine

    cut = groups or (1 if compare == "logits" else fine.GROUPS)
    names = splits.split(",")
    found: dict[str, dict[str, fine.Distances]] = {name: {} for name in names}
    numbers, maps = [], set[str]()
    for run in runs:
        trained = _trained(run, data)
        what = fine.compared(trained, run, compare == "logits")
        maps.add(f"encoder stage {what.name}" if isinstance(what.name, int) else what.name)
        if len(maps) > 1:
            raise UserError(
                f"{run}: compares other maps than the runs before it ({' and '.join(sorted(maps))}); draw them apart, "
                "or take --map logits"
            )
        for name in names:
            samples = spread(trained.data.samples(name), photos)
            shown = tracked(samples, f"{run}, {name}", len(samples))
            on = resolve_device(device)
            found[name][str(run)] = fine.distances(trained, what, shown, cut, norm, seed, on)
        numbers.append(
            {
                "run": str(run),
                "step": trained.step,
                "teacher": str(trained.method.teacher_model),
                "map": what.name,
                "distiller": what.section or None,
                "splits": {name: found[name][str(run)].to_json() for name in names},
            }
        )
    drawn = {name: {run: it.sample for run, it in by_run.items()} for name, by_run in found.items()}
    means = {name: {run: it.mean for run, it in by_run.items()} for name, by_run in found.items()}
    draw_distances(out, drawn, means, f"{norm.upper()} distance, {maps.pop()}")
    finish(out, "distances", {"norm": norm, "groups": cut, "photos": photos, "seed": seed, "runs": numbers})


def _trained(run: Path, data: Path | None) -> "Trained":
    import sys

    from semseg_app.training.run.trained import load_trained

    return load_trained(run, lambda line: print(line, file=sys.stderr), data)


def _views(crops: "LabeledCrops", index: int, labels: Any) -> tuple[list[str], Any]:
    """Titles and pictures of one crop."""
    import numpy as np

    from semseg_app.labels import IGNORE
    from semseg_app.plots.photo_grid import Picture, Row, class_picture

    batch = crops.batch
    assert batch.labels is not None
    shown: dict[str, np.ndarray] = {}
    views = {"weak view": batch.weak}
    many = len(batch.strong) > 1
    views |= {f"strong view{f' {number + 1}' if many else ''}": view for number, view in enumerate(batch.strong)}
    for name, view in views.items():
        shown[name] = (view[index] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    pad = batch.pad[index].cpu().numpy()
    for name, probabilities in crops.parts.items():
        classes = probabilities[index].argmax(dim=0).byte().cpu().numpy()
        shown[name] = class_picture(np.where(pad, IGNORE, classes).astype(np.uint8), labels)
    if crops.selects:
        learned = crops.learned[index].cpu().numpy()
        shown["learned from"] = class_picture(np.where(learned, classes, IGNORE).astype(np.uint8), labels)
    shown["truth"] = class_picture(batch.labels[index].byte().cpu().numpy(), labels)
    return list(shown), Row(crops.names[index], [Picture(pixels) for pixels in shown.values()])
