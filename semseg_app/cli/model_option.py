"""What the verbs that take a MODEL share: the option beside it, and a folder to write into."""

import sys
from pathlib import Path
from typing import Annotated

import typer

MODEL = "A model folder, a run folder (its best model), an .onnx file or a Hub id (user/repo)."
Revision = Annotated[str | None, typer.Option(help="Branch, tag or, best, commit of a model on the Hub.")]


def writable_model(model: str, revision: str | None) -> Path:
    """The model for a verb that writes beside it. A Hub id is copied into the folder ./repo first, once."""
    from semseg_app.artifact import model_folder
    from semseg_app.errors import UserError
    from semseg_app.hub.download import HubId, pull

    named = None if Path(model).exists() else HubId.parse(model)
    if named is None:
        if revision is not None:
            raise UserError(f"--revision {revision}: is for models of the Hub, and {model} is on this machine")
        return model_folder(Path(model))
    folder = Path(named.repo.partition("/")[2])
    pull(model, folder, revision)
    print(f"semseg: {model} was copied to {folder}, which is written to", file=sys.stderr)
    return folder
