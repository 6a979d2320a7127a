"""`semseg plot ...`: what models and runs do, as figures with their numbers beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from semseg_app.cli.help import App
from semseg_app.cli.model_option import Device
from semseg_app.errors import UserError

app = App(
    help="Draw what models see and what runs teach; each plot is a PNG or PDF with its numbers as JSON beside it."
)

FOLDER = "A model folder, a run folder (its best model) or a Hub id (user/repo)."
Models = Annotated[list[str], typer.Argument(help=f"One or more to set side by side. {FOLDER}")]
Data = Annotated[Path, typer.Option(help="A dataset folder, or a published dataset as it was unpacked.")]
Split = Annotated[str, typer.Option(help="A split of the data, or one of its lists.")]
Out = Annotated[
    Path, typer.Option("-o", "--out", help="The plot, .png or .pdf; its numbers go to the same name .json.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of what is drawn at random.")]
Photos = Annotated[int, typer.Option(min=1, help="How many photos, spread evenly over the split.")]


@app.command()
def features(
    models: Models,
    data: Data,
    out: Out,
    split: Split = "val",
    points: Annotated[int, typer.Option(min=10, help="Labeled pixels, drawn evenly from all photos.")] = 10_000,
    perplexity: Annotated[float, typer.Option(min=1, help="About how many neighbors t-SNE looks at.")] = 40.0,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Lay pixels out by their features (t-SNE): decoder and deepest stage, several models side by side."""
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.cli.progress import progress_bar
    from semseg_app.plots.canvas import check_plot_file
    from semseg_app.plots.scatter import Panel, draw_panels

    check_plot_file(out)
    paths = [_folder(model) for model in models]
    from semseg_app.inference.engines.torch import resolve_device
    from semseg_app.models import load
    from semseg_app.plots.feature_points import MAPS, draw_points, layout, thinned, vectors_at

    on = resolve_device(device)
    opened = open_aloud(data)
    samples = opened.samples(split)
    drawn = draw_points(opened, samples, points, seed)
    drawn_panels = list[Panel]()
    with progress_bar("t-SNE") as update:
        for model, path in zip(models, paths, strict=True):
            vectors = vectors_at(load(path, on), drawn, samples, opened.read_image, on)
            for name in MAPS:
                update(len(drawn_panels), len(models) * len(MAPS))
                drawn_panels.append(Panel(model, name, layout(vectors[name], drawn.label, perplexity, seed)))
    draw_panels(out, drawn_panels, drawn.label, opened.info)
    numbers = {
        "data": opened.info.name,
        "split": split,
        "data_fingerprint": opened.fingerprint(samples),
        "perplexity": perplexity,
        "seed": seed,
        "classes": opened.info.classes,
        "point_classes": drawn.label.tolist(),
        "panels": [
            {
                "model": panel.model,
                "map": panel.map,
                "silhouette": panel.layout.silhouette,
                "divergence": panel.layout.divergence,
                "points": thinned(panel.layout.places),
            }
            for panel in drawn_panels
        ],
    }
    finish(out, "features", numbers)


@app.command()
def attention(
    models: Models,
    photo: Annotated[Path, typer.Option(help="The photo.")],
    at: Annotated[str, typer.Option(metavar="X,Y", help="The pixel whose patch is asked, e.g. 120,80.")],
    out: Out,
    layer: Annotated[int, typer.Option(help="Which layer of the transformer; -1 is the last.")] = -1,
    shuffle: Annotated[
        int | None, typer.Option(min=1, help="Show each model also with blocks of this side shuffled (PatchShuffle).")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Show what one patch of a photo looks at, in vision transformers and MiT encoders, before and after."""
    from semseg_app.cli.attention import attention_columns
    from semseg_app.plots.canvas import check_plot_file
    from semseg_app.plots.photo_grid import Picture, Row, draw_photo_grid

    check_plot_file(out)
    place = _place(at)
    paths = [_folder(model) for model in models]
    image, columns = attention_columns(models, paths, photo, place, layer, shuffle, seed, device)
    rows = [
        Row(photo.name, [Picture(image, mark=place), *(column.segmented for column in columns)]),
        Row("attention", [None, *(column.heat for column in columns)]),
    ]
    draw_photo_grid(out, ["photo", *(column.title for column in columns)], rows, columns[0].labels)
    numbers = {"photo": str(photo), "at": list(place), "layer": layer, "shuffle": shuffle, "seed": seed}
    finish(out, "attention", {**numbers, "columns": [column.numbers for column in columns]})


@app.command()
def panels(
    models: Annotated[
        list[str],
        typer.Argument(help="Two or more models, also exported ones; the first and the last are compared."),
    ],
    data: Data,
    out: Out,
    split: Split = "val",
    photos: Photos = 3,
    photo: Annotated[list[str] | None, typer.Option(help="A photo by its name; may be given again.")] = None,
    device: Device = "auto",
) -> None:
    """Set class maps of several models side by side, with boxes and a map of where the first and the last differ."""
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.cli.progress import tracked
    from semseg_app.hub.download import local_model
    from semseg_app.inference.engines.open import open_engine
    from semseg_app.inference.evaluate import check_classes
    from semseg_app.inference.predictor import Predictor
    from semseg_app.labels import LabelSpace
    from semseg_app.plots.canvas import check_plot_file
    from semseg_app.plots.differences import differences
    from semseg_app.plots.photo_grid import Picture, Row, change_picture, class_picture, draw_photo_grid

    check_plot_file(out)
    if len(models) < 2:
        raise UserError("panels compares models: name two or more")
    opened = open_aloud(data)
    samples = _named(opened.samples(split), photo, split) if photo else spread(opened.samples(split), photos)
    engines = [open_engine(local_model(model), device=device) for model in models]
    for engine in engines:
        check_classes(engine.labels.classes, opened.info.classes)
    predictors = [Predictor(engine) for engine in engines]
    labels = LabelSpace(classes=opened.info.classes, palette=opened.info.palette)
    rows, numbers = [], []
    for sample in tracked(samples, "segmenting", len(samples)):
        image, label = opened.read_pair(sample)
        maps = [predictor.predict(image).classes for predictor in predictors]
        found = differences(label, maps[0], maps[-1])
        pictures = [Picture(image), Picture(class_picture(label, labels))]
        pictures += [Picture(class_picture(classes, labels), found.boxes) for classes in maps]
        counted = found.to_json()
        changed = f"+{counted['gained_pixels']:,}  −{counted['lost_pixels']:,} pixels"
        pictures.append(Picture(change_picture(image, found.gained, found.lost), found.boxes, caption=changed))
        rows.append(Row(sample.stem, pictures))
        accuracies = [float((classes == label).sum() / max(found.labeled, 1)) for classes in maps]
        numbers.append({"photo": sample.stem, "pixel_accuracy": accuracies, **counted})
    titles = ["photo", "truth", *models, "blue: only the last is right\nred: only the first is right"]
    draw_photo_grid(out, titles, rows, labels)
    finish(out, "panels", {"models": models, "data": opened.info.name, "split": split, "photos": numbers})


def finish(out: Path, kind: str, numbers: Mapping[str, Any]) -> None:
    """Write the numbers beside the plot and say where both are."""
    from semseg_app.plots.canvas import save_numbers

    beside = save_numbers({"plot": kind, **numbers}, out)
    print(f"{out} and {beside}")


def spread(samples: list[Any], count: int) -> list[Any]:
    """So many of a list, evenly from its first to its last; all where it has no more."""
    if count >= len(samples):
        return samples
    return [samples[index * (len(samples) - 1) // max(count - 1, 1)] for index in range(count)]


def _named(samples: list[Any], names: list[str], split: str) -> list[Any]:
    by_name = {sample.stem: sample for sample in samples}
    for name in names:
        if name not in by_name:
            raise UserError(
                f"--photo {name}: {split} has no such photo; names are without suffix, such as {samples[0].stem}"
            )
    return [by_name[name] for name in names]


def _folder(model: str) -> Path:
    """A model whose network can be looked into. UserError for an exported graph."""
    from semseg_app.artifact import read_config
    from semseg_app.hub.download import local_model

    path = local_model(model)
    if not path.is_dir():
        raise UserError(f"{model}: an exported graph gives class maps alone; name the model folder that it came from")
    read_config(path)
    return path


def _place(text: str) -> tuple[int, int]:
    try:
        column, row = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--at {text}: two whole numbers, column and row of a pixel, such as 120,80") from None
    return column, row
