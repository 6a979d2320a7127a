"""The probes themselves: `python -m semseg_app.doctor.probes NAME [ARGUMENT...]` prints one JSON object a line.

Each finding is printed as soon as it is known, so that a crash leaves what came before.
"""

import importlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semseg_app.doctor.tiny_graph import tiny_graph
from semseg_app.errors import UserError

SIZE = (64, 96)


def main() -> None:
    """Run one probe; whatever a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**findings: Any) -> None:
        print(json.dumps(findings), file=answers, flush=True)

    name, *arguments = sys.argv[1:]
    try:
        PROBES[name](say, *arguments)
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        say(failure=" ".join(text.split()), missing=isinstance(error, ModuleNotFoundError))
        sys.exit(1)


def torch_installation(say: Any) -> None:
    """Versions, CUDA, and a small network of random weights on every device that is there."""
    import torch

    say(version=torch.__version__, built_for=torch.version.cuda)
    with warnings.catch_warnings(record=True) as caught:  # why a driver cannot be used comes as a warning
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    say(available=available, reason=" ".join(str(caught[0].message).split()) if caught else None)
    if available:
        say(devices=[torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())])
    if torch.version.cuda is not None:
        cudnn_version: Callable[[], int | None] = torch.backends.cudnn.version
        say(cudnn=cudnn_version())

    from semseg_app import models
    from semseg_app.inference.engines.torch import TorchEngine
    from semseg_app.labels import LabelSpace
    from semseg_app.model_spec import ModelSpec

    spec = ModelSpec(architecture="deeplabv3plus", encoder="resnet18", decoder_channels=16, num_classes=3)
    labels = LabelSpace(classes=["a", "b", "c"], palette=[(0, 0, 0), (1, 1, 1), (2, 2, 2)])
    ran: dict[str, float] = {}
    for device in ("cpu", "cuda:0") if available else ("cpu",):
        ran[device] = _run(TorchEngine(models.build(spec), "tiny", labels, device))
        say(ran=ran)


def onnxruntime_installation(say: Any) -> None:
    """Version and the providers that were compiled in."""
    import onnxruntime

    say(version=onnxruntime.__version__, providers=onnxruntime.get_available_providers())


def onnxruntime_provider(say: Any, provider: str) -> None:
    """Run a tiny graph with one provider; fail when ONNX Runtime puts another in its place."""
    import numpy as np
    import onnxruntime

    if provider == "CUDAExecutionProvider":
        onnxruntime.preload_dlls()  # says on stdout what it cannot load
    session = onnxruntime.InferenceSession(tiny_graph(), providers=[provider], enable_fallback=0)
    if provider not in session.get_providers():
        raise RuntimeError(f"could not be started, and {', '.join(session.get_providers())} took its place in silence")
    images = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    classes, confidence = session.run(["classes", "confidence"], {"images": images})
    if not (np.array_equal(classes, images.argmax(axis=3)) and np.array_equal(confidence, images.max(axis=3))):
        raise RuntimeError("gives wrong results")
    say(works=True)


def graph_engine(say: Any, device: str, kind: str) -> None:
    """The engine that serves, on a tiny graph."""
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "tiny.onnx")
        graph.write_bytes(tiny_graph())
        model(say, str(graph), kind, device)


def tensorrt_builder(say: Any, module: str) -> None:
    """Build an engine from a tiny graph, ahead of time where there is no GPU and the library can."""
    tensorrt = importlib.import_module(module)
    say(version=tensorrt.__version__)
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(tiny_graph()):
        raise RuntimeError("; ".join(parser.get_error(index).desc() for index in range(parser.num_errors)))
    config = builder.create_builder_config()
    if module == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(tensorrt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("images", *[(1, *SIZE, 3)] * 3)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError("the builder gave no engine")
    say(engine_bytes=engine.nbytes)


def model(say: Any, path: str, kind: str, device: str) -> None:
    """Open a model folder or an exported file and run one batch."""
    from semseg_app.benchmark.variants import open_variant

    engine = open_variant(Path(path), kind, device)
    say(name=engine.name, device=engine.device, precision=engine.precision)
    say(milliseconds=_run(engine))


def _run(engine: Any) -> float:
    """Milliseconds of the second of two runs of one batch; RuntimeError when the answer has not the photos' shape."""
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
    for _ in range(2):
        start = time.perf_counter()
        prediction = engine.infer(images)
        milliseconds = 1000 * (time.perf_counter() - start)
    if not prediction.classes.shape == prediction.confidence.shape == (2, *SIZE):
        raise RuntimeError(f"answers {prediction.classes.shape} to images of {images.shape}")
    return round(milliseconds, 2)


PROBES: dict[str, Callable[..., None]] = {
    "torch": torch_installation,
    "onnxruntime": onnxruntime_installation,
    "provider": onnxruntime_provider,
    "graph-engine": graph_engine,
    "tensorrt": tensorrt_builder,
    "model": model,
}

if __name__ == "__main__":
    main()
