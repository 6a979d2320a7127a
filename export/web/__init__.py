"""`semseg export --to web`: a folder with a page that segments photos in the visitor's browser.

Any server of static files serves it. The page, its graph and the runtime lie in the folder, and it asks for nothing
else: photos stay on the visitor's machine.

    index.html app.js style.css   the page
    worker.js                     runs the graph off the page's own thread
    model.json                    name, classes, palette, precision, which files
    model-<hash>.onnx             the deployed graph, that passed its verification
    runtime/                      onnxruntime-web and its license
    examples/                     photos to begin with, where some were given
"""

import hashlib
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import semseg_app
from semseg_app.artifact import read_config
from semseg_app.data.dataset import read_image
from semseg_app.errors import UserError
from semseg_app.export.manifest import has_passed
from semseg_app.export.verification_set import bounded, resized
from semseg_app.export.web.runtime import VERSION
from semseg_app.files import atomic_folder, remove_folder

PAGE = Path(__file__).parent / "page"
MODEL = "model.json"
PRODUCER = "semseg_app"
EXAMPLES = 8
EXAMPLE_SIDE = 1280
"""Longest side of an example, in pixels."""


def export_web(
    folder: Path, graph: Path, precision: str, runtime: Mapping[str, bytes], out: Path, examples: Sequence[Path] = ()
) -> dict[str, Any]:
    """Write the page's folder, whole or not at all; an earlier page there is replaced.

    Args:
        folder: the model folder.
        graph: its exported graph, which has passed.
        precision: of the graph.
        runtime: what `runtime_files` gives.
        out: the page's folder: new, empty, or a page of ours.
        examples: photos; the first 8 are scaled down to 1280 pixels and stripped of their metadata.

    Returns what model.json says. UserError when the graph has not passed, `out` is something else, or an example is
    not an image.
    """
    if not has_passed(folder, graph):
        raise UserError(f"{graph}: has not passed its verification; run `semseg export {folder}` again")
    check_out(out)
    content = graph.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    config = read_config(folder)
    described: dict[str, Any] = {
        "format_version": 1,
        "name": config.name,
        **config.labels.model_dump(),
        "precision": precision,
        # By its hash: a browser that keeps the last graph in its cache asks for the new one.
        "graph": f"model-{digest[:12]}.onnx",
        "graph_bytes": len(content),
        "graph_sha256": digest,
        "runtime": f"onnxruntime-web {VERSION}",
        "examples": [],
        "producer": f"{PRODUCER} {semseg_app.__version__}",
    }
    fresh = out.with_name(f".{out.name}-new")
    shutil.rmtree(fresh, ignore_errors=True)  # of an export that was cut short
    with atomic_folder(fresh) as part:
        shutil.copytree(PAGE, part, dirs_exist_ok=True)
        (part / described["graph"]).write_bytes(content)
        (part / "runtime").mkdir()
        (part / "onnxruntime-web-LICENSE.txt").rename(part / "runtime" / "LICENSE.txt")
        for name, file in runtime.items():
            (part / "runtime" / name).write_bytes(file)
        for index, photo in enumerate(examples[:EXAMPLES]):
            described["examples"].append({"file": f"examples/{index + 1}.jpg", "name": photo.stem})
            _write_example(photo, part / described["examples"][-1]["file"])
        (part / MODEL).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    if out.exists():
        remove_folder(out)
    fresh.rename(out)
    return described


def check_out(out: Path) -> None:
    """UserError unless a page may be put there: what this program did not write, it does not delete."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        ours = json.loads((out / MODEL).read_bytes())["producer"].startswith(f"{PRODUCER} ")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        ours = False
    if not ours:
        raise UserError(f"{out}: there is something else already; choose a new folder with --out")


def _write_example(photo: Path, target: Path) -> None:
    pixels = read_image(photo)
    encoded = io.BytesIO()
    Image.fromarray(resized(pixels, bounded(pixels, EXAMPLE_SIDE))).save(encoded, "JPEG", quality=90)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(encoded.getvalue())
