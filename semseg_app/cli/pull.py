"""`semseg pull`: a model of the Hub into a folder."""

import json
from pathlib import Path
from typing import Annotated

import typer

from semseg_app.cli.model_option import Revision


def pull(
    model: Annotated[str, typer.Argument(help="A Hub id: user/repo, or user/repo@revision.")],
    folder: Annotated[Path | None, typer.Argument(help="Folder to write (default: ./repo).")] = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was fetched as JSON on stdout.")] = False,
) -> None:
    """Download a model, check it, and copy it to a folder. Other verbs take the id itself and read the cache."""
    from semseg_app.artifact import read_manifest
    from semseg_app.errors import UserError
    from semseg_app.hub.download import HubId
    from semseg_app.hub.download import pull as run

    named = HubId.parse(model)
    if named is None:
        raise UserError(f"{model}: not a Hub id; write user/repo, or user/repo@revision")
    target = folder or Path(named.repo.partition("/")[2])
    name = run(model, target, revision)
    exports = {file: entry.get("verdict") for file, entry in read_manifest(target).get("exports", {}).items()}
    if as_json:
        print(json.dumps({"folder": str(target), "name": name, "exports": exports}, indent=2))
    else:
        told = "; ".join(f"{file}: {verdict}" for file, verdict in exports.items()) or "no exported graph"
        typer.echo(f"{name} in {target} ({told})", err=True)
