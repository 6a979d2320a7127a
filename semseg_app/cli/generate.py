"""`semseg data generate`: write a dataset of synthetic street scenes."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer


def generate(
    out: Annotated[Path, typer.Argument(help="The folder to write; must not exist yet.")],
    train: Annotated[int, typer.Option(help="How many training images.")] = 256,
    val: Annotated[int, typer.Option(help="How many validation images.")] = 64,
    unlabeled: Annotated[int, typer.Option(help="How many more images without labels.")] = 0,
    size: Annotated[str, typer.Option(help="Height x width in pixels.")] = "192x256",
    seed: Annotated[int, typer.Option(help="Another seed gives other streets.")] = 0,
    labeled: Annotated[
        str, typer.Option(help="Sizes of the labeled lists in splits/, e.g. 8,32; default: 8 to 128.")
    ] = "",
    workers: Annotated[int, typer.Option(help="Processes; the files are the same for any number.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON on stdout.")] = False,
) -> None:
    """Write synthetic street scenes with labels (11 classes) as a dataset folder; nothing is downloaded."""
    from semseg_app import synthetic
    from semseg_app.cli.progress import progress_bar
    from semseg_app.data.dataset import open_folder
    from semseg_app.errors import UserError

    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if sides is None:
        raise UserError(f"--size {size}: write height x width in pixels, e.g. 192x256")
    if not re.fullmatch(r"(\d{1,9}(,\d{1,9})*)?", labeled):
        raise UserError(f"--labeled {labeled}: write numbers of images, e.g. 8,32")
    counts = [int(count) for count in labeled.split(",")] if labeled else None
    with progress_bar("drawing streets") as update:
        synthetic.generate(out, train, val, unlabeled, (int(sides[1]), int(sides[2])), seed, counts, workers, update)
    data = open_folder(out)
    lists = {name: len(data.samples(name)) for name in data.split_names()}
    if as_json:
        print(
            json.dumps(
                {"root": str(out), "seed": seed, "size": size, "classes": synthetic.CLASSES, "splits": lists}, indent=1
            )
        )
    else:
        print(f"{out}: " + ", ".join(f"{name} {count}" for name, count in lists.items()))
