"""`semseg space`: a web page for a model on the Hub's free hardware."""

import json
from pathlib import Path
from typing import Annotated

import typer

from semseg_app.cli.model_option import Revision


def space(
    model: Annotated[str, typer.Argument(help="A model folder, exported, or a Hub id (user/repo).")],
    repo: Annotated[str | None, typer.Argument(help="Where on the Hub: user/space.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the files here too, or only here.")] = None,
    precision: Annotated[str, typer.Option(help="Which exported graph: fp32, fp16 or int8.")] = "fp32",
    license: Annotated[str | None, typer.Option(help="The model's license, if its folder has none.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Make it public (default: private).")] = False,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was published as JSON on stdout.")] = False,
) -> None:
    """Make a Gradio Space that runs the exported graph on a CPU, write it, upload it."""
    from semseg_app.errors import UserError
    from semseg_app.hub.download import local_model
    from semseg_app.hub.push import publish
    from semseg_app.hub.space import space_files, write_space

    if repo is None and out is None:
        raise UserError("no target given; add user/space, or --out FOLDER")
    files = space_files(local_model(model, revision), model, precision, license)
    if out is not None:
        write_space(files, out)
        typer.echo(f"{out}: {len(files)} files; try it: cd {out} && python app.py", err=True)
    if repo is not None:
        pushed = publish(repo, files, "space", public, f"Show {model}", space_sdk="gradio")
        if as_json:
            print(json.dumps(pushed._asdict(), indent=2))
        else:
            typer.echo(f"{pushed.url} ({'private; --public opens it' if pushed.private else 'public'})", err=True)
