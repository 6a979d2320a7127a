"""`semseg push`: publish a model with its proof."""

import json
from pathlib import Path
from typing import Annotated

import typer


def push(
    model: Annotated[Path, typer.Argument(help="A model folder, exported.")],
    repo: Annotated[str, typer.Argument(help="Where on the Hub: user/repo.")],
    public: Annotated[bool, typer.Option("--public", help="Make it public (default: private).")] = False,
    license: Annotated[
        str | None, typer.Option(help="License of the model, e.g. apache-2.0 (default: the recipe's).")
    ] = None,
    weights_license: Annotated[
        str | None, typer.Option(help="License of pretrained weights, where it is unknown.")
    ] = None,
    data_license: Annotated[
        str | None, typer.Option(help="License of the training data (default: dataset.yaml's).")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset of which three photos are published as samples.")] = None,
    split: Annotated[str, typer.Option(help="Split or list of --data.")] = "val",
    benchmark: Annotated[Path | None, typer.Option(help="Folder of `semseg benchmark --out`, for the card.")] = None,
    runs: Annotated[list[Path] | None, typer.Option(help="Run folder of another seed, for the card; repeat.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The validation data on the Hub, user/dataset.")] = None,
    base_model: Annotated[str | None, typer.Option(help="The teacher on the Hub, user/teacher.")] = None,
    precision: Annotated[str, typer.Option(help="Which exported graphs, e.g. fp32,int8 (default: all).")] = "",
    weights_only: Annotated[bool, typer.Option("--weights-only", help="A draft: no exported graph, no proof.")] = False,
    message: Annotated[str, typer.Option(help="Title of the commit.")] = "",
    tag: Annotated[str | None, typer.Option(help="A name for this revision, for --revision.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was published as JSON on stdout.")] = False,
) -> None:
    """Publish a model folder on the Hub: weights, verified graphs, manifest, scores and card, in one commit."""
    from semseg_app.artifact import model_folder
    from semseg_app.errors import UserError
    from semseg_app.hub.bundle import Choices
    from semseg_app.hub.push import push as run

    if weights_only and public:
        raise UserError("--weights-only: a draft without proof stays private; leave --public out, or export first")
    choices = Choices(
        license=license,
        weights_license=weights_license,
        data_license=data_license,
        dataset=dataset,
        base_model=base_model,
        data=data,
        split=split,
        benchmark=benchmark,
        runs=runs or (),
        precisions=[part.strip() for part in precision.split(",") if part.strip()],
        weights_only=weights_only,
    )
    pushed = run(model_folder(model), repo, choices, public, message, tag=tag)
    if as_json:
        print(json.dumps(pushed._asdict(), indent=2))
        return
    state = "private; --public opens it" if pushed.private else "public"
    typer.echo(f"{pushed.url}: {len(pushed.files)} files, downloaded again and compared ({state})", err=True)
