"""The variants that can be measured: each engine and precision that a model has."""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from semseg_app import machine
from semseg_app.artifact import WEIGHTS, manifest_entry, no_model, read_config
from semseg_app.errors import UserError, did_you_mean
from semseg_app.inference.engines import plans
from semseg_app.inference.engines.base import GRAPHS, Engine
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.engines.source import is_left_behind

ENGINES = ("torch", "onnxruntime", "openvino", "tensorrt")


class Variant(NamedTuple):
    """One model on one engine in one precision."""

    model: str
    """As the user named it."""
    path: Path
    kind: str
    precision: str | None
    """What the file's name promises; None where it promises nothing."""
    verdict: str | None
    """Result of the export's verification: "passed", "rejected", or None where it has not been verified; "other
    weights" where the model folder's weights are not those that the file was made of."""
    open: Callable[..., Engine]
    """open(threads=...) -> the engine. It travels to another process: a module's function, or a `partial` of one."""


def find_variants(
    models: Iterable[str], engines: Sequence[str] = (), precisions: Sequence[str] = (), device: str = "auto"
) -> list[Variant]:
    """The variants of model folders, .onnx and .engine files.

    Of a folder torch comes first, then ONNX Runtime, OpenVINO and TensorRT.

    A graph that verification rejected is among them: what it costs in accuracy is what a benchmark shows. So is one
    that was made of other weights than its model folder has.

    Args:
        models: folders or files; a file is measured whatever `engines` and `precisions` say.
        engines: only these; empty = all that a folder has files for and that run here.
        precisions: only these; empty = all.
        device: "auto", "cpu" or "cuda".

    Raises:
        UserError: for an unknown engine or precision, and where a model has nothing that was asked for.
    """
    _check("--engine", engines, ENGINES)
    _check("--precision", precisions, tuple(GRAPHS))
    found: dict[tuple[Path, str], Variant] = {}
    for model in models:
        path = Path(model)
        if path.is_dir():
            variants = _of_folder(model, engines, precisions or tuple(GRAPHS), device)
            if not variants:
                raise UserError(_nothing(path, engines, precisions))
        elif path.suffix == ".onnx" and path.is_file():
            variants = [_of_file(model, path, "onnxruntime", None, device)]
        elif path.suffix == plans.SUFFIX and path.is_file():
            variants = [_of_file(model, path, "tensorrt", plans.read_plan(path).precision, device)]
        else:
            raise no_model(path)
        for variant in variants:
            found.setdefault((variant.path.resolve(), variant.kind), variant)
    return list(found.values())


def open_variant(path: Path, kind: str, device: str, threads: int | None = None) -> Engine:
    """The engine of exactly this file or folder, rejected or not."""
    if kind == "tensorrt":
        from semseg_app.inference.engines.tensorrt import open_tensorrt

        return open_tensorrt(path, device, force=True)
    return open_engine(path, kind, device, threads, force=True)


def _of_folder(model: str, engines: Sequence[str], precisions: Sequence[str], device: str) -> list[Variant]:
    """`engines`: empty = what runs here."""
    folder = Path(model)
    read_config(folder)

    def wanted(engine: str) -> bool:
        return engine in engines or (not engines and importlib.util.find_spec(engine) is not None)

    variants = []
    if wanted("torch") and "fp32" in precisions and (folder / WEIGHTS).is_file():
        opener = partial(open_variant, folder, "torch", device)
        variants.append(Variant(model, folder, "torch", "fp32", None, opener))
    if wanted("onnxruntime"):
        for precision, name in GRAPHS.items():
            if precision in precisions and (folder / name).is_file():
                variants.append(_of_file(model, folder / name, "onnxruntime", precision, device))
    if wanted("openvino") and (engines or device != "cuda"):
        for precision, name in GRAPHS.items():
            # It runs fp16 in fp32.
            if precision in precisions and precision != "fp16" and (folder / name).is_file():
                variants.append(_of_file(model, folder / name, "openvino", precision, device))
    if "tensorrt" in engines or (not engines and device != "cpu"):
        for path, plan in plans.find_plans(folder).items():
            if plan.precision in precisions and (engines or _runs_here(plan)):
                variants.append(_of_file(model, path, "tensorrt", plan.precision, device))
    return variants


def _of_file(model: str, path: Path, kind: str, precision: str | None, device: str) -> Variant:
    stale = path.suffix == ".onnx" and is_left_behind(path)
    verdict = "other weights" if stale else manifest_entry(path).get("verdict")
    opener = partial(open_variant, path, kind, device)
    return Variant(model, path, kind, precision, verdict, opener)


def _runs_here(plan: plans.Plan) -> bool:
    """Whether a TensorRT engine was built for the first GPU and with the binding that is installed."""
    try:
        found = machine.gpus()[:1]
    except RuntimeError:  # `semseg doctor` tells why
        return False
    installed = machine.versions().get(plan.binding.replace("_", "-"))
    return installed == plan.version and any(plan.runs_on(plans.Gpu(gpu.name, gpu.capability)) for gpu in found)


def _nothing(folder: Path, engines: Sequence[str], precisions: Sequence[str]) -> str:
    """Which file is missing, and the command that makes it."""
    if list(engines) == ["torch"] and precisions and "fp32" not in precisions:
        return f"{folder}: the torch engine runs fp32, not {', '.join(precisions)}"
    if list(engines) == ["openvino"] and list(precisions) == ["fp16"]:
        return f"{folder}: OpenVINO runs fp32 and int8, not fp16"
    if list(engines) == ["tensorrt"]:
        wanted = " or ".join(precisions or GRAPHS)
        return f"{folder / plans.FOLDER}: no engine in {wanted}; run `semseg export {folder} --to tensorrt` first"
    precision = next((name for name in GRAPHS if name in precisions), "fp32")
    option = "" if precision == "fp32" else f" --precision {precision} --data DATASET"
    return f"{folder / GRAPHS[precision]}: missing; run `semseg export {folder} --to onnx{option}` first"


def _check(option: str, given: Sequence[str], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"{option} {name}: unknown; choose one of {', '.join(known)}{did_you_mean(name, known)}")
