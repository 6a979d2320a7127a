"""`semseg data pull` and `semseg data push`: datasets of the Hub."""

import json
from pathlib import Path
from typing import Annotated

import typer


def pull(
    dataset: Annotated[str, typer.Argument(help="A dataset on the Hub: user/dataset, or user/dataset@revision.")],
    out: Annotated[Path, typer.Argument(help="The dataset folder to write; must not exist yet.")],
    splits: Annotated[str, typer.Option(help="The Hub's names, e.g. train,validation (default: all).")] = "",
    config: Annotated[str | None, typer.Option(help="Configuration, where the dataset has several.")] = None,
    image: Annotated[str | None, typer.Option(help="Column of the photos.")] = None,
    mask: Annotated[str | None, typer.Option(help="Column of the masks.")] = None,
    classes: Annotated[str, typer.Option(help="Names of the classes 0, 1, ..., where the dataset has none.")] = "",
    ignore_index: Annotated[int, typer.Option(min=0, max=255, help="Value that is not scored.")] = 255,
    info: Annotated[Path | None, typer.Option(help="A dataset.yaml that says what the masks mean.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most photos of a split; only they are downloaded.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON on stdout.")] = False,
) -> None:
    """Write a dataset of the Hub as a dataset folder, row by row."""
    from semseg_app.cli.progress import progress_bar
    from semseg_app.hub.dataset_pull import Wish, pull_dataset

    def parts(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())

    wish = Wish(config, parts(splits), image, mask, info, parts(classes), ignore_index, limit)
    counts: dict[str, int] = {}
    with progress_bar("reading rows") as update:

        def read(split: str, rows: int) -> None:
            counts[split] = rows
            update(sum(counts.values()), None)

        found = pull_dataset(dataset, out, wish, read)
    if as_json:
        print(json.dumps({"folder": str(out), "classes": found.classes, "rows": counts}, indent=1))
        return
    told = ", ".join(f"{count} {split}" for split, count in counts.items())
    typer.echo(f"{out}: {told}; {len(found.classes)} classes. Now: semseg check {out}", err=True)


def push(
    folder: Annotated[Path, typer.Argument(help="A dataset folder, or a published dataset.")],
    repo: Annotated[str, typer.Argument(help="Where on the Hub: user/dataset.")],
    license: Annotated[str | None, typer.Option(help="License of the data (default: dataset.yaml's).")] = None,
    public: Annotated[bool, typer.Option("--public", help="Make it public (default: private).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON on stdout.")] = False,
) -> None:
    """Publish a dataset folder on the Hub: Parquet with an image and a mask column, and a card."""
    from semseg_app.cli.progress import progress_bar
    from semseg_app.data.layouts import open_dataset
    from semseg_app.hub.dataset_push import push_dataset

    with progress_bar("packing") as update:
        pushed = push_dataset(open_dataset(folder), repo, license, public, progress=update)
    if as_json:
        print(json.dumps(pushed._asdict(), indent=1))
        return
    state = "private; --public opens it" if pushed.private else "public"
    typer.echo(f"{pushed.url}: {len(pushed.files)} files, downloaded again and compared ({state})", err=True)
