"""Semantic segmentation from a few labels to a verified, served model.

Examples:
    >>> import semseg_app
    >>> model = semseg_app.load("runs/street/best")
    >>> result = model.predict("photo.jpg")
    >>> result.shares
    {'road': 0.75, 'car': 0.25}
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `import semseg_app` takes no time; `load` imports what the model needs
    from semseg_app.inference.model import Model

__version__ = "0.1.0"

# Nothing is reported to anyone. Once imported, ONNX Runtime (1.31 for Linux) sends its maker a number of the machine,
# its processor, system and memory, and the program's path; Ray sends figures of the cluster that it starts.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def load(
    model: str | Path,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    tile: int | None = 1024,
    revision: str | None = None,
    force: bool = False,
) -> "Model":
    """Load a model to segment photos with.

    Args:
        model: a model folder, a run folder (its best model), an .onnx or .engine file, a segmentation model that
            transformers saved, or a Hub id (user/repo, user/repo@revision).
        engine: "onnxruntime", "openvino", "torch", "tensorrt", or "auto": ONNX Runtime where the model is an exported
            graph, else torch.
        device: "cpu", "cuda", or "auto". "cuda" runs on a GPU or raises; it never falls back to the CPU in silence.
        precision: which exported graph of a folder: "fp32", "fp16", "int8", or "auto" (fp32; for TensorRT fp16).
        threads: CPU threads; None = one per core that the process may use.
        tile: longest side, in pixels, of what runs at once: larger photos run in overlapping tiles. None = never tile.
        revision: branch, tag or commit of a model on the Hub.
        force: run a graph that verification rejected all the same.

    Raises:
        UserError: the model cannot be found or downloaded, or cannot run here; one line says how to fix it.

    Examples:
        >>> load("runs/street/best", engine="onnxruntime", threads=1)
        Model('street': road, car, tree; onnxruntime fp32 on cpu)
    """
    from semseg_app.hub.download import local_model
    from semseg_app.inference.engines.open import open_engine
    from semseg_app.inference.model import Model

    return Model(open_engine(local_model(model, revision), engine, device, threads, precision, force), tile)
