"""What a model repository may hold, and what is checked of it. Nothing else is ever downloaded: no pickles, no code.

A name must be one of these to the letter, so that no path leads out of the folder; a size must be believable before the
first byte is fetched; and the files must be what the listing and the manifest say.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from semseg_app.artifact import CONFIG, MANIFEST, WEIGHTS, read_config, read_manifest
from semseg_app.artifact.transformers_folder import transformers_type
from semseg_app.errors import UserError
from semseg_app.files import sha256
from semseg_app.inference.engines.base import GRAPHS

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

CARD, PREPROCESSOR = "README.md", "preprocessor_config.json"
MIB = 2**20
LARGEST = {
    CONFIG: MIB,
    PREPROCESSOR: MIB,
    CARD: MIB,
    MANIFEST: 8 * MIB,
    WEIGHTS: 8192 * MIB,
    **{graph.as_posix(): 2048 * MIB for graph in GRAPHS.values()},
}
"""Name -> bytes."""


def choose(repo: str, listing: "Iterable[RepoFile]") -> "dict[str, RepoFile]":
    """The files that make up a model folder. UserError where that is not a model of ours, or a size is absurd."""
    found = {file.path: file for file in listing if file.path in LARGEST}
    if CONFIG not in found or not (found.keys() & {WEIGHTS, *(graph.as_posix() for graph in GRAPHS.values())}):
        raise UserError(
            f"{repo}: not a model of semseg-app (it needs {CONFIG} and {WEIGHTS} or onnx/model.onnx; `semseg push` "
            f"publishes one), nor one of transformers with its weights in {WEIGHTS}"
        )
    for name, file in found.items():
        if file.size > LARGEST[name]:
            raise UserError(
                f"{repo}: {name} has {file.size / MIB:.0f} MiB, more than the {LARGEST[name] // MIB} that it may have; "
                "nothing was downloaded"
            )
    return found


def check_transfer(repo: str, folder: Path, files: "dict[str, RepoFile]") -> None:
    """UserError unless every file has the hash that the listing gives."""
    for name, file in files.items():
        path = folder / name
        if file.lfs is not None:
            same = sha256(path) == file.lfs.sha256
        else:
            content = path.read_bytes()
            same = (
                hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == file.blob_id
            )
        if not same:
            raise UserError(f"{repo}: {name} arrived damaged; delete {path.resolve()} and run again")


def check_folder(repo: str, folder: Path, cache: Path) -> None:
    """UserError unless all of a downloaded folder holds together. It may be a model that transformers saved.

    Args:
        repo: for messages.
        folder: the snapshot.
        cache: links may point into it, and nowhere else.
    """
    for path in (folder / name for name in LARGEST):
        if path.exists() and not path.resolve().is_relative_to(cache.resolve()):
            raise UserError(f"{repo}: {path} points out of the cache; delete it and run again")
    if transformers_type(folder):
        return
    try:
        read_config(folder)
    except UserError as error:
        raise UserError(f"{repo}: not a model of semseg-app, or of a newer one ({error})") from None
    for name, entry in read_manifest(folder).get("exports", {}).items():
        if name not in LARGEST:  # engines of TensorRT are built where they run
            continue
        if not (folder / name).is_file():
            raise UserError(f"{repo}: {name} is in {MANIFEST} but not there; half of an upload, or it was deleted")
        if entry.get("sha256") != sha256(folder / name):
            raise UserError(
                f"{repo}: {name} is not the file that {MANIFEST} vouches for; somebody exchanged it after verification"
            )
        if (folder / WEIGHTS).is_file() and entry.get("source_sha256") != sha256(folder / WEIGHTS):
            raise UserError(f"{repo}: {name} was not exported from the {WEIGHTS} beside it")
