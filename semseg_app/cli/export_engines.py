"""`semseg export --to tensorrt`, `tensorrt-rtx` and `triton`: what is made from a verified ONNX graph."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from semseg_app.errors import UserError

if TYPE_CHECKING:
    from semseg_app.export.verification_set import VerificationSet


class Choices(NamedTuple):
    """What the options say, checked."""

    to: str
    buckets: Any
    """Of export/tensorrt/buckets.py; None where an engine brings its own."""
    max_batch: int
    capabilities: tuple[str, ...]
    backend: str

    @classmethod
    def check(
        cls, to: str, data: Path | None, buckets: str | None, max_batch: int, capability: str | None, backend: str
    ) -> "Choices":
        """UserError for what would fail only after the graph was exported."""
        from semseg_app.inference.engines.tensorrt_probe import require

        if to == "tensorrt":
            require("tensorrt")
        if to == "tensorrt-rtx":
            require("tensorrt_rtx")
        if capability and to != "tensorrt-rtx":
            raise UserError("--compute-capability is for --to tensorrt-rtx: TensorRT builds for this machine's GPU")
        capabilities = tuple(part.strip() for part in capability.split(",")) if capability else ()
        own = to == "triton" and backend == "tensorrt"
        return cls(to, None if own else _buckets(data, buckets), max_batch, capabilities, backend)


def make(
    model: Path, precision: str, choices: Choices, verification: "VerificationSet | None"
) -> tuple[Path, dict[str, Any]]:
    """The engine or the repository, and its entry in the manifest or what is in it."""
    if choices.to == "triton":
        return _to_triton(model, precision, choices)
    return _to_tensorrt(model, precision, choices, verification)


def _buckets(data: Path | None, given: str | None) -> Any:
    """The buckets that were given, else those of the dataset's photos."""
    from semseg_app.data.layouts import open_dataset
    from semseg_app.export.tensorrt.buckets import choose_buckets, count_sizes, parse_buckets

    if given:
        return parse_buckets(given)
    if data is None:
        raise UserError("which photo sizes? Give --buckets, as in 512x512,480x360, or --data to take a dataset's sizes")
    return choose_buckets(count_sizes(open_dataset(data)))


def _to_tensorrt(
    model: Path, precision: str, choices: Choices, verification: "VerificationSet | None"
) -> tuple[Path, dict[str, Any]]:
    """Build, attest, verify as far as this machine can, record."""
    from semseg_app.cli.gate_report import print_entry
    from semseg_app.export.tensorrt import export_tensorrt
    from semseg_app.export.tensorrt.verify import verify_engine
    from semseg_app.export.verify import record
    from semseg_app.inference.engines.base import GRAPHS

    binding: Literal["tensorrt", "tensorrt_rtx"] = "tensorrt_rtx" if choices.to == "tensorrt-rtx" else "tensorrt"
    graph = model / GRAPHS[precision]
    engine = export_tensorrt(model, graph, choices.buckets, choices.max_batch, binding, choices.capabilities)
    entry = verify_engine(model, engine, verification)
    record(model, engine, entry)
    print_entry(engine, entry)
    if entry["verdict"] == "unverified":
        print(f"{engine}: {entry['reasons'][0]}", file=sys.stderr)
    return engine, entry


def _to_triton(model: Path, precision: str, choices: Choices) -> tuple[Path, dict[str, Any]]:
    from semseg_app.export.triton import export_triton, serve_engine, serve_graph
    from semseg_app.inference.engines.base import GRAPHS

    if choices.backend == "tensorrt":
        served = serve_engine(model, precision)
    else:
        served = serve_graph(model / GRAPHS[precision], choices.buckets, choices.max_batch)
    repository = export_triton(model, served)
    models = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    print(f"{repository}: {', '.join(models)}; tritonserver --model-repository {repository}", file=sys.stderr)
    return repository, {"verdict": "passed", "backend": served.backend, "models": models, "max_batch": served.batch}
