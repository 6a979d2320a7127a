"""Engines: uint8 images in, uint8 class maps out, whatever runs underneath.

`open_engine` picks the one that fits a model; torch.py and onnxruntime.py hold the engines themselves, and are imported
only when they run: a machine without torch serves an exported graph.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from semseg_app.artifact import LabelSpace, read_config, read_manifest
from semseg_app.errors import UserError

KINDS = ("auto", "torch", "onnxruntime")
DEVICES = ("auto", "cpu", "cuda")
GRAPH = Path("onnx", "model.onnx")


class Prediction(NamedTuple):
    """What an engine says of a batch, or the predictor of one image (then without N)."""

    classes: np.ndarray
    """uint8 [N, H, W], class index."""
    confidence: np.ndarray
    """uint8 [N, H, W], the largest softmax probability times 255, rounded."""


class Engine(Protocol):
    """One loaded model on one device."""

    name: str
    """The model's name, as its config gives it."""
    kind: str
    """"torch", "onnxruntime" or "tensorrt"."""
    device: str
    """What really runs: "cpu", "cuda:0"."""
    precision: str
    """What really runs: "fp32", "fp16", "bf16", "int8"."""
    labels: LabelSpace

    def infer(self, images: np.ndarray) -> Prediction:
        """Segment uint8 RGB `[N, H, W, 3]`; any H and W. One call at a time."""
        ...


@runtime_checkable
class ProbabilityEngine(Engine, Protocol):
    """An engine that also gives what sliding-window and multi-scale evaluation average."""

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Softmax of uint8 RGB `[N, H, W, 3]`: float32 `[N, C, H, W]`."""
        ...


def open_engine(model: str | Path, kind: str = "auto", device: str = "auto", threads: int | None = None) -> Engine:
    """Load a model folder or an .onnx file.

    Args:
        model: a model folder or an .onnx file.
        kind: "torch", "onnxruntime" or "auto" (ONNX Runtime when the folder holds an exported graph, else torch).
        device: "cpu", "cuda", or "auto". Asked for "cuda" and not getting it is an error, never a silent fallback.
        threads: CPU threads; None leaves the runtime's default.
    """
    path = Path(model)
    if kind not in KINDS:
        raise UserError(f"engine {kind!r}: there are {', '.join(KINDS)}")
    if device not in DEVICES:
        raise UserError(f"device {device!r}: there are {', '.join(DEVICES)}")
    if not path.exists():
        raise UserError(f"{path}: no such model folder or .onnx file")
    if path.is_dir():
        read_config(path)
        graph = path / GRAPH
        if kind == "torch" or (kind == "auto" and not (graph.is_file() and _installed("onnxruntime"))):
            return _open_torch(path, device, threads)
        if not graph.is_file():
            raise UserError(f"{graph}: missing; run `semseg export {path} --to onnx` first")
        _refuse_rejected(path)
    else:
        if path.suffix != ".onnx":
            raise UserError(f"{path}: neither a model folder nor an .onnx file")
        if kind == "torch":
            raise UserError(f"{path}: the torch engine runs a model folder, not an exported graph; give the folder")
        graph = path
    return _open_onnxruntime(graph, device, threads)


def _refuse_rejected(folder: Path) -> None:
    """UserError when verification found that the exported graph is not the trained network."""
    entry = read_manifest(folder).get("exports", {}).get(GRAPH.as_posix(), {})
    if entry.get("verdict") == "rejected":
        raise UserError(
            f"{folder / GRAPH}: rejected when it was exported: {'; '.join(entry['reasons'])}. "
            f"Run `semseg export {folder}` again, or use --engine torch"
        )


def check_images(images: np.ndarray) -> None:
    """ValueError unless `images` is uint8 `[N, H, W, 3]` with at least one pixel: what every engine takes."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ValueError(f"images are uint8 [N, H, W, 3]; got {images.dtype} {list(images.shape)}")


def _open_torch(folder: Path, device: str, threads: int | None) -> Engine:
    try:
        from semseg_app.inference.engines.torch import open_model_folder
    except ImportError as error:
        raise UserError(
            f"{folder}: the torch engine needs the extra `train` ({error}): pip install 'semseg-app[train]'; "
            "without torch, run an exported graph (`semseg export`)"
        ) from error
    return open_model_folder(folder, device, threads)


def _open_onnxruntime(graph: Path, device: str, threads: int | None) -> Engine:
    try:
        from semseg_app.inference.engines.onnxruntime import OnnxRuntimeEngine
    except ImportError as error:
        raise UserError(
            f"{graph}: running it needs the extra `cpu` or `gpu` ({error}): pip install 'semseg-app[cpu]'"
        ) from error
    return OnnxRuntimeEngine(graph, device, threads)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
