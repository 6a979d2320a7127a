"""`open_engine` picks the engine that fits a model.

Each engine has a file and is imported only when it runs: a machine without torch serves an exported graph.
"""

import importlib.util
from pathlib import Path

from semseg_app.artifact import check_graph, check_weights, manifest_entry, model_folder, read_config
from semseg_app.errors import UserError
from semseg_app.inference.engines.base import DEVICES, GRAPHS, KINDS, PRECISIONS, Engine
from semseg_app.inference.engines.plans import SUFFIX


def open_engine(
    model: str | Path,
    kind: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    force: bool = False,
) -> Engine:
    """Load a model folder, an .onnx or an .engine file.

    Args:
        model: a model folder, an .onnx file or an .engine file of TensorRT.
        kind: "torch", "onnxruntime", "openvino", "tensorrt" or "auto" (ONNX Runtime when the folder holds an exported
            graph, else torch).
        device: "cpu", "cuda", or "auto". Asked for "cuda" and not getting it is an error, never a silent fallback.
        threads: CPU threads; None = `machine.threads`, those that the process may use.
        precision: which of a folder's exported graphs: "fp32", "fp16", "int8", or "auto" (fp32; of TensorRT's engines
            fp16).
        force: run a graph that verification rejected, or that is not the file which was verified, all the same.
    """
    path = Path(model)
    for name, value, choices in (
        ("engine", kind, KINDS),
        ("device", device, DEVICES),
        ("precision", precision, PRECISIONS),
    ):
        if value not in choices:
            raise UserError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}")
    if not path.exists():
        raise UserError(f"{path}: no such model folder or .onnx file")
    path = model_folder(path)
    if kind == "tensorrt" or path.suffix == SUFFIX:
        return _open_tensorrt(path, kind, device, precision, force)
    if path.is_dir():
        read_config(path)
        reduced = precision not in ("auto", "fp32")
        graph = path / GRAPHS[precision if reduced else "fp32"]
        if kind == "torch" and reduced:
            raise UserError(f"{path}: the torch engine runs in fp32; for {precision} use --engine onnxruntime")
        if kind == "torch" or (kind == "auto" and not reduced and not (graph.is_file() and _installed("onnxruntime"))):
            return _open_torch(path, device, threads)
        if not graph.is_file():
            options = f" --precision {precision} --data DATASET" if reduced else ""
            raise UserError(f"{graph}: missing; run `semseg export {path} --to onnx{options}` first")
    else:
        if path.suffix != ".onnx":
            raise UserError(f"{path}: neither a model folder nor an .onnx or .engine file")
        if kind == "torch":
            raise UserError(f"{path}: the torch engine runs a model folder, not an exported graph; give the folder")
        if precision != "auto":
            raise UserError(f"{path}: a file has its own precision; leave --precision out, or give the model folder")
        graph = path
    if not force:
        refuse_rejected(graph)
        check_graph(graph)
    if kind == "openvino":
        return _open_openvino(graph, device, threads)
    return _open_onnxruntime(graph, device, threads)


def refuse_rejected(graph: Path) -> None:
    """UserError when verification found that a graph in a model folder is not the trained network."""
    entry = manifest_entry(graph)
    if entry.get("verdict") == "rejected":
        raise UserError(
            f"{graph}: rejected when it was exported: {'; '.join(map(str, entry.get('reasons', [])))}. "
            "Export it again, run it all the same with --force, or use --engine torch"
        )


def _open_torch(folder: Path, device: str, threads: int | None) -> Engine:
    try:
        from semseg_app.inference.engines.torch import open_model_folder
    except ImportError as error:
        raise UserError(
            f"{folder}: the torch engine needs the extra `train` ({error}): pip install 'semseg-app[train]'; "
            "without torch, run an exported graph (`semseg export`)"
        ) from error
    check_weights(folder)
    return open_model_folder(folder, device, threads)


def _open_onnxruntime(graph: Path, device: str, threads: int | None) -> Engine:
    try:
        from semseg_app.inference.engines.onnxruntime import OnnxRuntimeEngine
    except ImportError as error:
        raise UserError(
            f"{graph}: running it needs the extra `cpu` or `gpu` ({error}): pip install 'semseg-app[cpu]'"
        ) from error
    return OnnxRuntimeEngine(graph, device, threads)


def _open_openvino(graph: Path, device: str, threads: int | None) -> Engine:
    try:
        from semseg_app.inference.engines.openvino import OpenVinoEngine
    except ImportError as error:
        raise UserError(
            f"{graph}: OpenVINO needs the extra `openvino` ({error}): pip install 'semseg-app[openvino]'"
        ) from error
    return OpenVinoEngine(graph, device, threads)


def _open_tensorrt(path: Path, kind: str, device: str, precision: str, force: bool) -> Engine:
    if path.is_dir():
        read_config(path)
    elif path.suffix != SUFFIX or kind not in ("auto", "tensorrt"):
        raise UserError(f"{path}: --engine tensorrt and .engine files go together; give both, or the model folder")
    from semseg_app.inference.engines.tensorrt import open_tensorrt

    return open_tensorrt(path, device, precision, force)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
