"""`semseg data ...`: list the splits of a dataset, draw label splits."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Splits of a dataset.", no_args_is_help=True, rich_markup_mode=None)

Data = Annotated[Path, typer.Argument(help="A dataset folder, or a published dataset.")]
LayoutName = Annotated[str, typer.Option(help="auto, folder, photos, voc, cityscapes, ade20k, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="The answer as JSON on stdout.")]


@app.command("list")
def list_splits(data: Data, layout: LayoutName = "auto", as_json: AsJson = False) -> None:
    """Every split and list: images, labels, and the hash that goes into results."""
    from semseg_app.data.layouts import open_dataset

    dataset = open_dataset(data, layout)
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
    sizes: Annotated[str, typer.Option(help="Fractions or counts of labeled images, e.g. 1/16,1/8,1/4 or 92,183.")],
    split: Annotated[str, typer.Option(help="Which split to draw from.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Of the draw; other seeds than 0 go into the names.")] = 0,
    force: Annotated[bool, typer.Option(help="Overwrite lists of other content.")] = False,
    layout: LayoutName = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw nested labeled lists, each with its unlabeled rest, into splits/: smaller ones lie within larger ones."""
    from semseg_app.cli.progress import progress_bar
    from semseg_app.data.layouts import open_dataset
    from semseg_app.data.splits import nested_splits, write_splits

    dataset = open_dataset(data, layout)
    with progress_bar("reading masks") as update:
        drawn = nested_splits(dataset, [size.strip() for size in sizes.split(",")], split, seed, update)
    write_splits(dataset, drawn, force)
    rows = [
        {
            "name": f"{result.name}-{kind}",
            "images": len(samples),
            "hash": dataset.fingerprint(samples),
            "missing_classes": result.missing if kind == "labeled" else [],
        }
        for result in drawn
        for kind, samples in (("labeled", result.labeled), ("unlabeled", result.unlabeled))
    ]
    if as_json:
        print(json.dumps({"root": str(dataset.root), "seed": seed, "split": split, "lists": rows}, indent=1))
        return
    _print_table(("list", "images", "hash"), [(row["name"], row["images"], row["hash"]) for row in rows])
    for result in drawn:
        if result.missing:
            typer.echo(f"{result.name}-labeled is too small to show {', '.join(result.missing)}", err=True)


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
