"""A strongly typed graph and its profiles -> a serialized engine, through either binding: `tensorrt` or `tensorrt_rtx`.

TensorRT builds on and for the GPU of this machine. TensorRT for RTX also builds ahead of time, without a GPU, for the
compute capabilities that it is told. Both read each layer's precision off the graph: there are no flags for it.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

from semseg_app.errors import UserError
from semseg_app.export.tensorrt.graph import IMAGES
from semseg_app.export.tensorrt.layer_precisions import Layer, layers_of_inspector, layers_of_log
from semseg_app.inference.engines.plans import Profile


class Built(NamedTuple):
    """What the builder gave."""

    engine: bytes
    layers: list[Layer]
    """The layers of all profiles."""
    layers_read_from: Literal["engine inspector", "builder log"]
    """Where `layers` was read."""
    timings: bytes
    """The timing cache, grown by this build; empty where the binding keeps none."""


def build(
    trt: Any, graph: bytes, profiles: Sequence[Profile], capabilities: Collection[str] = (), timings: bytes = b""
) -> Built:
    """Build an engine.

    Args:
        trt: the binding, imported.
        graph: the prepared ONNX graph (graph.py), serialized.
        profiles: the shapes that it is to run at.
        capabilities: compute capabilities ("8.9") to build for ahead of time; empty = the GPU of this machine.
        timings: the timing cache of earlier builds on this GPU: a kernel that was timed is not timed again.

    Raises:
        UserError: the parser or the builder refuses; the line says why.
    """
    log = _full_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network()  # strongly typed: there is no other kind
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        error = parser.get_error(0)
        reason = " ".join(error.desc().split("\n[")[0].split())
        raise UserError(f"TensorRT cannot parse {error.node_operator()} {error.node_name()!r} of the graph: {reason}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the layers' precisions are unknown
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 is asked for with 24 bits, not with 11
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(_capability(trt, capability), index)
    for profile in profiles:
        described = builder.create_optimization_profile()
        described.set_shape(IMAGES, *[(*shape, 3) for shape in profile])
        if config.add_optimization_profile(described) < 0:
            raise UserError(f"TensorRT does not take the shapes {' to '.join(map(str, profile))}: {log.reason()}")
    cache = None
    if keeps_timings(trt):
        cache = config.create_timing_cache(timings)
        config.set_timing_cache(cache, ignore_mismatch=False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UserError(f"TensorRT cannot build the engine: {log.reason()}")
    content = bytes(engine)
    layers, layers_read_from = _layers(trt, log, content, profiles, can_load=not capabilities)
    return Built(content, layers, layers_read_from, bytes(cache.serialize()) if cache is not None else b"")


def keeps_timings(trt: Any) -> bool:
    """Whether the binding times kernels while it builds: TensorRT for RTX chooses them when they first run."""
    return bool(trt.__name__ == "tensorrt")


def target_capabilities(trt: Any) -> list[str]:
    """The compute capabilities that the binding builds for ahead of time, ascending."""
    numbers = [int(name[2:]) for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    return [f"{number // 10}.{number % 10}" for number in sorted(numbers)]


def _capability(trt: Any, text: str) -> Any:
    known = target_capabilities(trt)
    if text not in known:
        raise UserError(
            f"--compute-capability {text}: TensorRT for RTX {trt.__version__} builds ahead of time for "
            f"{', '.join(known)}; for other GPUs use --to tensorrt on the machine itself"
        )
    return getattr(trt.ComputeCapability, f"SM{text.replace('.', '')}")


def _layers(
    trt: Any, log: Any, engine: bytes, profiles: Sequence[Profile], can_load: bool
) -> tuple[list[Layer], Literal["engine inspector", "builder log"]]:
    if not can_load:
        return layers_of_log(log.lines), "builder log"
    runtime = trt.Runtime(log)
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:
        raise UserError(f"TensorRT does not load the engine that it has built: {log.reason()}")
    inspector = loaded.create_engine_inspector()
    layers = []
    for index, profile in enumerate(profiles):
        # Without shapes the inspector leaves out formats, and it has those of one profile at a time.
        context = loaded.create_execution_context()
        context.set_optimization_profile_async(index, 0)
        context.set_input_shape(IMAGES, (*profile.fastest, 3))
        inspector.execution_context = context
        found = layers_of_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        layers += [layer for layer in found if layer.profile == index]
    return layers, "engine inspector"


def _full_log(trt: Any) -> Any:
    """A logger that keeps every line, and shows none."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(message)
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

        def reason(self) -> str:
            """The first error: the others follow from it."""
            return " ".join(self.errors[0].split()) if self.errors else "it does not say why"

    return Log()
