"""`semseg data image-labels`: which classes each photo shows, from its mask."""

from pathlib import Path
from typing import Annotated

import typer


def image_labels(
    data: Annotated[Path, typer.Argument(help="A dataset folder, or a published dataset.")],
    split: Annotated[str, typer.Option("--list", help="The split or list whose photos get a line.")] = "train",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The table; image_labels.csv in DATA if you name none.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace a table that is there.")] = False,
    layout: Annotated[str, typer.Option(help="auto, folder, photos, voc, cityscapes, ade20k, ...")] = "auto",
) -> None:
    """Write the classes in each photo to a table, for training with image-level labels (method.image_labels)."""
    from semseg_app.cli.data_option import open_aloud
    from semseg_app.cli.progress import progress_bar
    from semseg_app.data.image_label_table import write_image_labels

    dataset = open_aloud(data, layout)
    samples = dataset.samples(split)
    path = out or dataset.root / "image_labels.csv"
    with progress_bar("reading masks") as update:
        write_image_labels(dataset, samples, path, force, update)
    typer.echo(f"{len(samples)} lines in {path}", err=True)
