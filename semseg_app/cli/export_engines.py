"""`semseg export --to tensorrt`, `tensorrt-rtx` and `triton`: what is made from a verified ONNX graph."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from semseg_app.cli.given import refuse_given
from semseg_app.errors import UserError

if TYPE_CHECKING:
    from semseg_app.export.tensorrt.buckets import Buckets
    from semseg_app.export.verification_set import ExportData


class EngineOptions(NamedTuple):
    """The checked options."""

    to: str
    buckets: "Buckets | None"
    """None for a Triton repository of an engine, which brings its own."""
    max_batch: int
    capabilities: tuple[str, ...]
    backend: str

    @classmethod
    def check(
        cls,
        to: str,
        dataset: "ExportData | None",
        buckets: str | None,
        max_batch: int,
        capability: str | None,
        backend: str,
    ) -> "EngineOptions":
        """UserError for what would fail only after the graph was exported."""
        from semseg_app.inference.engines.tensorrt_probe import require

        if to == "tensorrt":
            require("tensorrt")
        if to == "tensorrt-rtx":
            require("tensorrt_rtx")
        capabilities = tuple(part.strip() for part in capability.split(",")) if capability else ()
        brings_buckets = to == "triton" and backend == "tensorrt"
        return cls(to, None if brings_buckets else _buckets(dataset, buckets), max_batch, capabilities, backend)


def refuse_engine_options(context: typer.Context, to: str, backend: str) -> None:
    """UserError for an option of engines or of Triton beside a --to that it does nothing for."""
    shapes = ("buckets", "max_batch")
    if to in ("onnx", "web"):
        refuse_given(context, shapes, f"only for --to tensorrt, tensorrt-rtx and triton; --to {to} has no fixed sizes")
    if to == "triton" and backend == "tensorrt":
        refuse_given(context, shapes, "the TensorRT engine brings its own; give it with --to tensorrt")
    if to != "tensorrt-rtx":
        reason = "only for --to tensorrt-rtx; TensorRT builds for this machine's GPU"
        refuse_given(context, ("compute_capability",), reason)
    if to != "triton":
        refuse_given(context, ("backend",), "only for --to triton")


def make_engine(
    model: Path, precision: str, options: EngineOptions, dataset: "ExportData | None"
) -> tuple[Path, dict[str, Any]]:
    """Make the engine or the Triton repository; its path, and its manifest entry or what the repository holds."""
    if options.to == "triton":
        return _to_triton(model, precision, options)
    from semseg_app.cli.gate_report import print_entry
    from semseg_app.export.pipeline import export_engine

    assert options.buckets is not None
    engine, entry = export_engine(
        model,
        precision,
        "tensorrt_rtx" if options.to == "tensorrt-rtx" else "tensorrt",
        options.buckets,
        options.max_batch,
        options.capabilities,
        dataset,
    )
    print_entry(engine, entry)
    if entry["verdict"] == "unverified":
        print(f"{engine}: {entry['reasons'][0]}", file=sys.stderr)
    return engine, entry


def _buckets(dataset: "ExportData | None", given: str | None) -> "Buckets":
    """The buckets that were given, else those of the dataset's photos."""
    from semseg_app.export.tensorrt.buckets import choose_buckets, count_sizes, parse_buckets

    if given:
        return parse_buckets(given)
    if dataset is None:
        raise UserError("no photo sizes: give --buckets, e.g. 512x512,480x360, or --data to take a dataset's sizes")
    return choose_buckets(count_sizes(dataset.data))


def _to_triton(model: Path, precision: str, options: EngineOptions) -> tuple[Path, dict[str, Any]]:
    from semseg_app.export.triton import export_triton, serve_engine, serve_graph
    from semseg_app.inference.engines.base import GRAPHS

    if options.buckets is None:
        served = serve_engine(model, precision)
    else:
        served = serve_graph(model / GRAPHS[precision], options.buckets, options.max_batch)
    repository = export_triton(model, served)
    models = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    print(f"{repository}: {', '.join(models)}; tritonserver --model-repository {repository}", file=sys.stderr)
    return repository, {"verdict": "passed", "backend": served.backend, "models": models, "max_batch": served.batch}
