"""`open_engine` picks the engine that fits a model, from the table `ENGINES`.

Each engine has a file and is imported only when it runs: a machine without torch serves an exported graph.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from semseg_app.artifact import check_graph, check_weights, manifest_entry, model_folder, no_model, read_config
from semseg_app.artifact.transformers_folder import transformers_type
from semseg_app.errors import UserError, did_you_mean, is_out_of_memory
from semseg_app.inference.engines.base import DEVICES, GRAPHS, KINDS, PRECISIONS, Engine
from semseg_app.inference.engines.plans import SUFFIX
from semseg_app.inference.engines.source import refuse_other_weights


class Request(NamedTuple):
    """What is to be opened, and how."""

    path: Path
    """The file or folder that the engine runs."""
    device: str
    threads: int | None
    precision: str
    force: bool
    calls: int
    """How many calls the engine may get at once."""


@dataclass(frozen=True)
class EngineRow:
    """One engine."""

    open: Callable[[Request], Engine]
    """Imports the engine and opens the model."""
    title: str
    """Begins the line about an extra that is missing."""
    extra: str
    """What brings it: pip install 'semseg-app[extra]'."""
    hint: str = ""
    """Ends that line."""


def _torch(request: Request) -> Engine:
    from semseg_app.inference.engines.torch import open_model_folder

    check_weights(request.path)
    return open_model_folder(request.path, request.device, request.threads)


def _transformers(request: Request) -> Engine:
    from semseg_app.inference.engines.hf import open_transformers

    return open_transformers(request.path, request.device, request.threads)


def _onnxruntime(request: Request) -> Engine:
    from semseg_app.inference.engines.onnxruntime import open_graph

    return open_graph(request.path, request.device, request.threads)


def _openvino(request: Request) -> Engine:
    from semseg_app.inference.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(request.path, request.device, request.threads, request.calls)


def _tensorrt(request: Request) -> Engine:
    from semseg_app.inference.engines.tensorrt import open_tensorrt

    return open_tensorrt(request.path, request.device, request.precision, request.force)


ENGINES: dict[str, EngineRow] = {
    "torch": EngineRow(_torch, "the torch engine", "train", "; without torch, run an exported graph (`semseg export`)"),
    "transformers": EngineRow(_transformers, "a model of transformers", "hf"),
    "onnxruntime": EngineRow(_onnxruntime, "ONNX Runtime", "cpu"),
    "openvino": EngineRow(_openvino, "OpenVINO", "openvino"),
    "tensorrt": EngineRow(_tensorrt, "TensorRT", "gpu"),
}
"""The engines by `Engine.kind`. `--engine` names all but transformers, which runs what transformers saved."""


def open_engine(
    model: str | Path,
    kind: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    force: bool = False,
    calls: int = 1,
) -> Engine:
    """Load a model folder, an .onnx or .engine file, or a segmentation model that transformers saved.

    Args:
        model: a model folder, a folder that transformers saved, an .onnx file (of another program with a description
            beside it, see `other_onnx`) or an .engine file of TensorRT.
        kind: "torch", "onnxruntime", "openvino", "tensorrt" or "auto" (ONNX Runtime when the folder holds an exported
            graph, else torch).
        device: "cpu", "cuda", or "auto". Asked for "cuda" and not getting it is an error, never a silent fallback.
        threads: CPU threads; None = `machine.threads`, those that the process may use.
        precision: which of a folder's exported graphs: "fp32", "fp16", "int8", or "auto" (fp32; of TensorRT's engines
            fp16).
        force: run a graph that verification rejected, that is not the file which was verified, or that was made of
            other weights than the folder has, all the same.
        calls: how many the engine may get at once, from as many threads, each with `threads` CPU threads of its own.
            More than one is for ONNX Runtime and OpenVINO on a CPU.
    """
    path = Path(model)
    for name, value, choices in (
        ("engine", kind, KINDS),
        ("device", device, DEVICES),
        ("precision", precision, PRECISIONS),
    ):
        if value not in choices:
            near = did_you_mean(str(value), choices)
            raise UserError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}{near}")
    if threads is not None and threads < 1:
        raise UserError(f"threads {threads}: must be 1 or more, or None for one per core")
    if not path.exists():
        raise UserError(f"{path}: no such model folder or .onnx file")
    path = model_folder(path)
    chosen, file = _choose(path, kind, precision)
    if chosen in ("onnxruntime", "openvino") and not force:
        refuse_rejected(file)
        check_graph(file)
        refuse_other_weights(file)
    row = ENGINES[chosen]
    try:
        return row.open(Request(file, device, threads, precision, force, calls))
    except Exception as error:
        if is_out_of_memory(error) or is_out_of_memory(error.__cause__):
            raise UserError(f"{file}: out of memory while it is opened; free some, or take a smaller model") from error
        if not isinstance(error, ImportError):
            raise
        install = f"pip install 'semseg-app[{row.extra}]'{row.hint}"
        raise UserError(f"{file}: {row.title} needs the extra `{row.extra}` ({error}): {install}") from error


def _choose(path: Path, kind: str, precision: str) -> tuple[str, Path]:
    """The row of `ENGINES` for a model, and what of it runs."""
    if kind == "tensorrt" or path.suffix == SUFFIX:
        if path.is_dir():
            read_config(path)
        elif path.suffix != SUFFIX or kind not in ("auto", "tensorrt"):
            raise UserError(f"{path}: --engine tensorrt and .engine files go together; give both, or the model folder")
        return "tensorrt", path
    if path.is_dir() and transformers_type(path):
        if kind not in ("auto", "torch") or precision not in ("auto", "fp32"):
            raise UserError(
                f"{path}: a model of transformers runs in torch, in fp32; leave --engine and --precision out"
            )
        return "transformers", path
    if path.is_dir():
        read_config(path)
        reduced = precision not in ("auto", "fp32")
        graph = path / GRAPHS[precision if reduced else "fp32"]
        if kind == "torch" and reduced:
            raise UserError(f"{path}: the torch engine runs in fp32; for {precision} use --engine onnxruntime")
        if kind == "torch" or (kind == "auto" and not reduced and not (graph.is_file() and _installed("onnxruntime"))):
            return "torch", path
        if not graph.is_file():
            options = f" --precision {precision} --data DATASET" if reduced else ""
            raise UserError(f"{graph}: missing; run `semseg export {path} --to onnx{options}` first")
    else:
        if path.suffix != ".onnx":
            raise no_model(path)
        if kind == "torch":
            raise UserError(f"{path}: the torch engine runs a model folder, not an exported graph; give the folder")
        if precision != "auto":
            raise UserError(f"{path}: a file has its own precision; leave --precision out, or give the model folder")
        graph = path
    return "openvino" if kind == "openvino" else "onnxruntime", graph


def refuse_rejected(graph: Path) -> None:
    """UserError when verification found that a graph in a model folder is not the trained network."""
    entry = manifest_entry(graph)
    if entry.get("verdict") == "rejected":
        raise UserError(
            f"{graph}: rejected when it was exported: {'; '.join(map(str, entry.get('reasons', [])))}. "
            "Export it again, run it all the same with --force, or use --engine torch"
        )


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
