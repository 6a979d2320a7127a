"""An exported ONNX graph -> MODEL/tensorrt/*.engine, with a JSON beside it that says which machine runs it.

An engine is built once for each graph, GPU, TensorRT version and set of buckets. When the same one is requested again,
the existing file is used. The precision of every layer is checked before anything is written.
"""

import hashlib
import importlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from semseg_app.artifact import read_manifest, write_manifest
from semseg_app.errors import UserError
from semseg_app.export.tensorrt.buckets import Buckets, profiles
from semseg_app.export.tensorrt.builder import build, keeps_timings, target_capabilities
from semseg_app.export.tensorrt.graph import prepare
from semseg_app.export.tensorrt.layer_precisions import precision_counts
from semseg_app.files import atomic_file
from semseg_app.inference.engines import metadata
from semseg_app.inference.engines.cuda import first_gpu, load_runtime
from semseg_app.inference.engines.plans import FOLDER, SUFFIX, Binding, Gpu, Plan, find_plans, read_plan
from semseg_app.inference.engines.tensorrt_probe import probe, require


def export_tensorrt(
    folder: Path,
    graph: Path,
    buckets: Buckets,
    batch: int = 4,
    binding: Binding = "tensorrt",
    capabilities: Sequence[str] = (),
) -> Path:
    """Build the engine of one exported graph, whole or not at all, and say where it is.

    Args:
        folder: the model folder.
        graph: one of its ONNX files; its metadata has the precision.
        buckets: the photo sizes to be fast at, and the largest one.
        batch: the most photos per run.
        binding: "tensorrt", or "tensorrt_rtx" for ahead of time.
        capabilities: compute capabilities to build for ahead of time; empty = the GPU of this machine.

    Raises:
        UserError: TensorRT or a driver is missing, the graph cannot be built, or the engine's layers do not run in the
            precision of the graph (nothing is written then).
    """
    if capabilities and binding == "tensorrt":
        raise UserError(
            "--compute-capability: TensorRT builds for the GPU of this machine; ahead of time, use --to tensorrt-rtx"
        )
    require(binding)
    gpu = None if capabilities else _own_gpu(binding)
    wanted: dict[str, Any] = {
        "binding": binding,
        "version": probe(binding, "Builder"),
        "gpu": gpu.name if gpu else None,
        "capabilities": [gpu.capability] if gpu else list(capabilities),
        "profiles": profiles(buckets, batch),
    }
    content = graph.read_bytes()
    model = onnx.load_from_string(content)
    described = metadata.parse(graph, {entry.key: entry.value for entry in model.metadata_props})
    wanted |= {"precision": described.precision, "graph_sha256": hashlib.sha256(content).hexdigest()}
    key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:12]
    target = folder / FOLDER / f"{_stem(wanted)}-{key}{SUFFIX}"
    if _is_current(target):
        return target
    trt = importlib.import_module(binding)
    start = time.perf_counter()
    timings = target.with_name(f"timings-{_place(wanted)}-{wanted['version']}.cache")
    known = timings.read_bytes() if keeps_timings(trt) and timings.is_file() else b""
    prepared = prepare(model)
    built = build(trt, prepared.SerializeToString(), wanted["profiles"], capabilities, known)
    plan = Plan(
        name=described.name,
        labels=described.labels,
        graph=graph.relative_to(folder).as_posix(),
        source_sha256=described.source_sha256,
        sha256=hashlib.sha256(built.engine).hexdigest(),
        key=key,
        layers=precision_counts(built.layers, prepared, described.precision, getattr(described, "float_layers", ())),
        layers_read_from=built.layers_read_from,
        seconds=round(time.perf_counter() - start, 1),
        **wanted,
    )
    # The JSON first: an engine is what is looked for.
    for path, data in (
        (target.with_suffix(".json"), plan.model_dump_json(indent=2).encode() + b"\n"),
        (target, built.engine),
        *([(timings, built.timings)] if built.timings else []),
    ):
        with atomic_file(path) as part:
            part.write_bytes(data)
    _remove_superseded(folder, target)
    return target


def _own_gpu(binding: Binding) -> Gpu:
    try:
        return first_gpu(load_runtime(binding))
    except UserError as error:
        if binding == "tensorrt":
            raise UserError(f"{error}. Without a GPU, --to tensorrt-rtx builds ahead of time") from error
        known = ", ".join(target_capabilities(importlib.import_module(binding)))
        raise UserError(f"no GPU to build for; give --compute-capability, one or more of {known}") from error


def _is_current(engine: Path) -> bool:
    """Whether a complete engine exists. Its name encodes all build inputs."""
    if not (engine.is_file() and engine.with_suffix(".json").is_file()):
        return False
    return hashlib.sha256(engine.read_bytes()).hexdigest() == read_plan(engine).sha256


def _remove_superseded(folder: Path, newest: Path) -> None:
    """Engines of the same precision for the same GPU and version, from an earlier graph or with other buckets."""
    stem = newest.stem.rsplit("-", 1)[0]
    manifest = read_manifest(folder)
    for path in find_plans(folder):
        if path != newest and path.stem.rsplit("-", 1)[0] == stem:
            path.unlink()
            path.with_suffix(".json").unlink()
            if manifest.get("exports", {}).pop(path.relative_to(folder).as_posix(), None) is not None:
                write_manifest(folder, manifest)


def _stem(wanted: dict[str, Any]) -> str:
    product = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}[wanted["binding"]]
    return f"{wanted['precision']}-{product}{wanted['version']}-{_place(wanted)}"


def _place(wanted: dict[str, Any]) -> str:
    """The GPU as part of a file's name: "nvidia-l4-sm89"; built ahead of time "sm86-sm89"."""
    name = re.sub(r"[^a-z0-9]+", "-", (wanted["gpu"] or "").lower()).strip("-")
    return "-".join([*([name] if name else []), *(f"sm{one.replace('.', '')}" for one in wanted["capabilities"])])
