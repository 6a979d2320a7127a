"""`semseg data ...`: list the splits of a dataset, draw label splits, write pseudo labels."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from semseg_app.cli.data_image_labels import image_labels
from semseg_app.cli.data_import import import_dataset
from semseg_app.cli.data_next import next_labels
from semseg_app.cli.help import App
from semseg_app.cli.model_option import ANY_MODEL, Revision, TeacherClasses, in_classes_of_data

app = App(help="Import, export, list, split, pseudo-label, generate, pull and push datasets.")

app.command("import")(import_dataset)
app.command("next")(next_labels)
app.command("image-labels")(image_labels)

Data = Annotated[Path, typer.Argument(help="A dataset folder, or a published dataset.")]
LayoutName = Annotated[str, typer.Option(help="auto, folder, photos, voc, cityscapes, ade20k, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="The answer as JSON on stdout.")]


@app.command("list")
def list_splits(data: Data, layout: LayoutName = "auto", as_json: AsJson = False) -> None:
    """Every split and list: images, labels, and the hash that goes into results."""
    from semseg_app.cli.data_option import open_aloud

    dataset = open_aloud(data, layout)
    rows = []
    for name in dataset.split_names():
        samples = dataset.samples(name)
        labeled = sum(sample.label is not None for sample in samples)
        rows.append({"name": name, "images": len(samples), "labeled": labeled, "hash": dataset.fingerprint(samples)})
    if as_json:
        answer = {"root": str(dataset.root), "name": dataset.info.name, "classes": dataset.info.classes, "splits": rows}
        print(json.dumps(answer, indent=1))
        return
    _print_table(("split", "images", "labeled", "hash"), [tuple(row.values()) for row in rows])


@app.command("split")
def split_labels(
    data: Data,
    sizes: Annotated[
        str, typer.Option(help="Fractions or counts of labeled images, e.g. 1/16,1/8,1/4 or 92,183; all = every mask.")
    ] = "",
    val: Annotated[
        str, typer.Option(help="First hold out so many masks (a count or a fraction) as the list val.")
    ] = "",
    split: Annotated[str, typer.Option(help="Which split to draw from.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw; if not 0, it goes into the names.")] = 0,
    force: Annotated[bool, typer.Option(help="Overwrite lists of other content.")] = False,
    layout: LayoutName = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw nested labeled lists, each with its unlabeled rest, into splits/: smaller ones lie within larger ones.

    With --val, a held-out set is drawn first; all lists are made of the photos that remain, and the unlabeled lists
    also name the photos of unlabeled/ that do not nearly repeat a photo of the held-out set.
    """
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.cli.progress import progress_bar
    from semseg_app.data.held_out import draw_val
    from semseg_app.data.splits import nested_splits, write_lists, write_splits
    from semseg_app.errors import UserError

    if not sizes and not val:
        raise UserError("say --sizes 1/8,1/4 for labeled lists, --val 10 for a held-out set, or both")
    dataset = open_aloud(data, layout)
    held = None
    if val:
        with progress_bar("reading masks") as update:
            held = draw_val(dataset, val, split, seed, update)
    drawn = []
    if sizes or held:
        with progress_bar("reading masks") as update:
            names = [size.strip() for size in (sizes or "all").split(",")]
            drawn = nested_splits(dataset, names, split, seed, update, held.training if held else None)
    # Both kinds are checked before the first is written, so that a refusal leaves everything untouched.
    val_lists = {held.name: held.val} if held else {}
    write_lists(dataset, val_lists, force, only_check=True)
    write_splits(dataset, drawn, force)
    write_lists(dataset, val_lists, force)
    rows: list[dict[str, Any]] = [
        {"name": name, "images": len(samples), "hash": dataset.fingerprint(samples), "missing_classes": held.missing}
        for name, samples in val_lists.items()
        if held
    ] + [
        {
            "name": f"{result.name}-{kind}",
            "images": len(samples),
            "hash": dataset.fingerprint(samples),
            "missing_classes": result.missing if kind == "labeled" else [],
        }
        for result in drawn
        for kind, samples in (("labeled", result.labeled), ("unlabeled", result.unlabeled))
        if samples
    ]
    if as_json:
        print(json.dumps({"root": str(dataset.root), "seed": seed, "split": split, "lists": rows}, indent=1))
        return
    _print_table(("list", "images", "hash"), [(row["name"], row["images"], row["hash"]) for row in rows])
    if held and held.warning:
        typer.echo(held.warning, err=True)
    if held and held.left_out:
        count = len(held.left_out)
        separate = drawn[0].unlabeled and "unlabeled" in dataset.folders
        fix = f"; train with {drawn[0].name}-unlabeled, not with unlabeled" if separate else ""
        message = f"{count} photos without masks nearly repeat photos of {held.name} and are in no list{fix}"
        typer.echo(message, err=True)
    for row in rows:
        if row["missing_classes"]:
            typer.echo(f"{row['name']} is too small to show {', '.join(row['missing_classes'])}", err=True)


@app.command("pseudo-label")
def pseudo_label(
    model: Annotated[str, typer.Argument(help=f"The teacher: {ANY_MODEL[0].lower()}{ANY_MODEL[1:]}")],
    data: Annotated[Path, typer.Option(help="A dataset folder, or a published dataset.")],
    split: Annotated[str, typer.Option("--list", help="A split or a list of it, e.g. 1_8-unlabeled.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the masks and manifest.json.")],
    threshold: Annotated[float, typer.Option(help="Keep pixels whose largest probability is above this.")] = 0.5,
    engine: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt"], typer.Option(help="What runs the model.")
    ] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where it runs.")] = "auto",
    teacher_classes: TeacherClasses = None,
    revision: Revision = None,
    layout: LayoutName = "auto",
    as_json: AsJson = False,
) -> None:
    """Write a model's confident predictions as masks, for self-training; run again to finish what was interrupted."""
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.cli.progress import progress_bar
    from semseg_app.hub.download import local_model
    from semseg_app.inference.engines.open import open_engine
    from semseg_app.inference.pseudo_label_writer import write_pseudo_labels

    dataset = open_aloud(data, layout)
    path = local_model(model, revision)
    loaded = in_classes_of_data(open_engine(path, engine, device), dataset.info, teacher_classes)
    with progress_bar("predicting") as update:
        manifest = write_pseudo_labels(path, loaded, dataset, split, out, threshold, update)
    if as_json:
        print(json.dumps({"folder": str(out), **manifest.model_dump()}, indent=1))
        return
    coverage = manifest.coverage
    assert coverage is not None
    rows = [*coverage.by_class.items(), ("near edges", coverage.near_edges), ("inside", coverage.inside)]
    rows.append(("all pixels", coverage.overall))
    _print_table(("predicted as", "kept %"), [(name, "-" if it is None else f"{100 * it:.1f}") for name, it in rows])
    typer.echo(f"{manifest.images} masks in {out} ({loaded.name}, {loaded.kind}, {loaded.device})", err=True)


def _print_table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """Columns as wide as they must be; numbers to the right."""
    cells = [header, *[tuple(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    right = [bool(rows) and isinstance(rows[0][column], int) for column in range(len(header))]
    for row in cells:
        padded = (
            cell.rjust(width) if on_right else cell.ljust(width)
            for cell, width, on_right in zip(row, widths, right, strict=True)
        )
        print("  ".join(padded).rstrip())
