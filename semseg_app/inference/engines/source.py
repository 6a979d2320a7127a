"""Whether an exported graph was made of the weights that its model folder has now.

A folder whose weights were replaced by those of another training keeps the graphs of the earlier ones: sound files, but
another network. The graph and the manifest both name the weights by their hash, so telling costs no reading of either.
"""

from pathlib import Path

from semseg_app.artifact import CONFIG, WEIGHTS, read_manifest
from semseg_app.errors import UserError
from semseg_app.files import sha256
from semseg_app.inference.engines.base import GRAPHS
from semseg_app.inference.engines.cut_graph import properties_of
from semseg_app.inference.engines.metadata import KEY, parse


def refuse_other_weights(graph: Path) -> None:
    """UserError when a model folder's exported graph was made of other weights than the folder has."""
    if is_left_behind(graph) and (home := _home(graph)):
        folder, precision = home
        options = "" if precision == "fp32" else f" --precision {precision} --data DATASET"
        raise UserError(
            f"{graph}: made of other weights than its model folder has now; run `semseg export {folder}{options}` "
            "again, run it all the same with --force, or use --engine torch"
        )


def is_left_behind(graph: Path) -> bool:
    """Whether `refuse_other_weights` refuses it."""
    home = _home(graph)
    return home is not None and is_of_other_weights(home[0], source_of(graph))


def is_of_other_weights(folder: Path, source: str | None) -> bool:
    """Whether what was made of the weights with the hash `source` is of others than the folder's.

    False where either hash is unknown: of a graph of an earlier release, or in a folder without weights.
    """
    if source is None:
        return False
    own = read_manifest(folder).get("weights", {}).get("sha256")
    if own is None and (folder / WEIGHTS).is_file():
        own = sha256(folder / WEIGHTS)
    return own is not None and own != source


def source_of(graph: Path) -> str | None:
    """The SHA-256 of the weights that a graph was made of; None where it does not say, or is damaged."""
    try:
        properties = properties_of(graph)
    except ValueError:
        return None
    return parse(graph, properties).source_sha256 if KEY in properties else None


def _home(graph: Path) -> tuple[Path, str] | None:
    """The model folder whose exported graph this is, and of which precision; None for any other file."""
    for path in (graph.absolute(), graph.resolve()):  # it may be a link out of its folder, or be reached by one
        folder = path.parent.parent
        precision = next((name for name, place in GRAPHS.items() if folder / place == path), None)
        if precision and (folder / CONFIG).is_file():
            return folder, precision
    return None
