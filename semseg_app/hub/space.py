"""A Space of the Hub that shows a model: a Gradio page around its exported graph, for the free CPU hardware."""

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from semseg_app.artifact import read_config, read_manifest
from semseg_app.artifact.licenses import decide
from semseg_app.artifact.lineage import lineage_of
from semseg_app.errors import UserError
from semseg_app.files import atomic_folder
from semseg_app.hub.bundle import Files, published_graphs
from semseg_app.hub.card import HUB_ID

GRADIO = "6.31.0"
"""Where gradio is not installed here: the version that the page was tested with."""
REQUIREMENTS = "numpy>=1.26\nonnxruntime>=1.24,<2\npillow>=11\n"


def space_files(folder: Path, model: str, precision: str, license: str | None) -> Files:
    """The files of the Space: README.md, app.py, requirements.txt, model.onnx.

    Args:
        folder: the model folder.
        model: as the user named it; where it is an id of the Hub, the Space links to it.
        precision: which exported graph.
        license: of the model, where its folder does not say.

    UserError where the graph was rejected or never verified.
    """
    from huggingface_hub import SpaceCardData

    config, manifest = read_config(folder), read_manifest(folder)
    (graph,) = published_graphs(folder, manifest, [precision])
    lineage = lineage_of(config)
    terms = decide(license or lineage.license, lineage.weights)
    repo = model.partition("@")[0]
    linked = repo if HUB_ID.fullmatch(repo) and not Path(model).exists() else None
    linked = linked or config.provenance.get("hub", {}).get("repo")
    card = SpaceCardData(
        title=config.name,
        sdk="gradio",
        sdk_version=_gradio(),
        python_version="3.11",
        app_file="app.py",
        license=terms.id,
        models=[linked] if linked else None,
        tags=["semantic-segmentation"],
    )
    page = Path(__file__).with_name("space_app.py").read_bytes()
    return {
        "README.md": f"---\n{card.to_yaml()}\n---\n\nSegments photos with {linked or config.name}.\n".encode(),
        "app.py": page,
        "requirements.txt": REQUIREMENTS.encode(),
        "model.onnx": folder / graph,
    }


def write_space(files: Files, target: Path) -> None:
    """The same as a folder, to try before it is uploaded: `python app.py`."""
    if target.exists():
        raise UserError(f"{target}: exists already; choose another folder")
    with atomic_folder(target) as part:
        for name, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, part / name)
            else:
                (part / name).write_bytes(content)


def _gradio() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError:
        return GRADIO
