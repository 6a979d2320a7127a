"""The engines: does each run, on which device, and what keeps it from running elsewhere?"""

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from semseg_app import machine
from semseg_app.doctor.diagnosis import Check
from semseg_app.doctor.packages import onnx_runtime_wheels
from semseg_app.doctor.probe import Outcome, probe

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
TENSORRT_PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Distribution -> module."""
TORCH_FIX = "pip install --force-reinstall torch"
TRAIN_FIX = "pip install 'semseg-app[train]'"


def torch() -> Iterator[Check]:
    """PyTorch, its CUDA and cuDNN, and the torch engine."""
    outcome = probe("torch")
    said = outcome.said
    if "version" not in said and outcome.missing:
        yield Check("torch", "warning", "not installed: exported graphs run, model folders do not", TRAIN_FIX)
        return
    if "version" not in said:
        yield Check("torch", "error", f"cannot be imported: {outcome.failure}", TORCH_FIX)
        return
    yield Check("torch", "ok", said["version"])
    if "available" in said:
        yield _cuda(outcome)
    if said.get("cudnn"):
        yield Check("cudnn", "ok", _cudnn_version(said["cudnn"]))
    elif said.get("available"):
        yield Check("cudnn", "error", "torch finds none", TORCH_FIX)
    for device, milliseconds in said.get("ran", {}).items():
        yield Check("torch engine", "ok", f"runs on {device} ({milliseconds:.1f} ms a tiny batch)")
    if outcome.missing:
        yield Check("torch engine", "warning", f"does not run: {outcome.failure}", TRAIN_FIX)
    elif outcome.failure:
        yield Check("torch engine", "error", f"does not run: {outcome.failure}", TORCH_FIX)


def onnxruntime() -> Iterator[Check]:
    """The wheels, the providers that work, and the ONNX Runtime engine."""
    wheels = onnx_runtime_wheels()
    right = "gpu" if _gpu() else "cpu"
    install = f"pip install 'semseg-app[{right}]'"
    if len(wheels) > 1:
        names = " ".join(wheels)
        text = f"{' and '.join(wheels)} are both installed and overwrite each other: one module, `onnxruntime`"
        yield Check("onnxruntime", "error", text, f"pip uninstall -y {names} && {install}")
    installation = probe("onnxruntime")
    if "version" not in installation.said:
        if wheels or not installation.missing:
            names = " ".join(wheels)
            fix = f"pip uninstall -y {names} && {install}" if wheels else install
            yield Check("onnxruntime", "error", f"cannot be imported: {installation.failure}", fix)
        else:
            yield Check("onnxruntime", "warning", "not installed: exported graphs do not run", install)
        return
    yield Check("onnxruntime", "ok", f"{installation.said['version']} ({', '.join(wheels) or 'not from a wheel'})")
    works = {name: probe("provider", name) for name in installation.said["providers"]}
    for name, outcome in works.items():
        yield _provider(name, outcome, wheels)
    if CUDA not in works and _gpu():
        fix = f"pip uninstall -y {' '.join(wheels)} && pip install 'semseg-app[gpu]'"
        yield Check("provider CUDA", "warning", "not in this wheel: ONNX Runtime leaves the GPU idle", fix)
    for device in ("cpu", "cuda") if CUDA in works and works[CUDA].failure is None else ("cpu",):
        yield _engine("onnxruntime engine", probe("graph-engine", device, "onnxruntime"), install)


def openvino() -> Iterator[Check]:
    """OpenVINO: the import, and its engine on the CPU."""
    try:
        installed = version("openvino")
    except PackageNotFoundError:
        yield Check("openvino", "ok", "not installed (nothing but its own engine needs it)")
        return
    outcome = probe("graph-engine", "cpu", "openvino")
    if outcome.failure is not None:
        fix = "pip install --force-reinstall openvino"
        yield Check("openvino", "error", f"{installed} does not run: {outcome.failure}", fix)
        return
    yield Check("openvino", "ok", installed)
    yield _engine("openvino engine", outcome, None)


def tensorrt() -> Iterator[Check]:
    """TensorRT and TensorRT for RTX: the import, and whether a tiny engine can be built."""
    for package, module in TENSORRT_PACKAGES.items():
        try:
            installed = version(package)
        except PackageNotFoundError:
            yield Check(package, "ok", "not installed (nothing but its own engines needs it)")
            continue
        outcome = probe("tensorrt", module)
        if outcome.failure is None:
            needs = "" if _gpu() else "; running them takes a GPU"
            yield Check(package, "ok", f"{installed} builds engines{needs}")
        elif "version" not in outcome.said:
            fix = f"pip install --force-reinstall {package}"
            yield Check(package, "error", f"{installed} cannot be imported: {outcome.failure}", fix)
        elif package == "tensorrt" and not _gpu():
            fix = "build on the machine with the GPU, or with tensorrt-rtx ahead of time"
            yield Check(package, "warning", f"{installed} builds nothing without a GPU ({outcome.failure})", fix)
        else:
            fix = f"pip install --force-reinstall {package}, with the driver that its release notes ask for"
            yield Check(package, "error", f"{installed} builds no engine: {outcome.failure}", fix)


def model(path: Path) -> Iterator[Check]:
    """A model folder or an exported file, with every engine that it has and that runs here."""
    from semseg_app.benchmark.variants import find_variants

    for variant in find_variants([str(path)], device="auto"):
        name = f"model {variant.path.name}"
        if variant.verdict == "rejected":
            fix = "`semseg export` again, or run the model folder with --engine torch"
            yield Check(name, "error", "rejected when it was exported (manifest.json says why)", fix)
        yield _engine(name, probe("model", str(variant.path), variant.kind, "auto"), None)


def _engine(name: str, outcome: Outcome, fix: str | None) -> Check:
    if outcome.failure is not None:
        return Check(name, "error", f"does not run: {outcome.failure}", fix)
    said = outcome.said
    where = f"{said['name']} runs on {said['device']} in {said['precision']}"
    return Check(name, "ok", f"{where} ({said['milliseconds']:.1f} ms a tiny batch)")


def _cuda(outcome: Outcome) -> Check:
    said = outcome.said
    if said["available"]:
        return Check("cuda", "ok", f"{said['built_for']} in torch, on {', '.join(said.get('devices', []))}")
    if said["built_for"] is None:
        if _gpu():
            return Check("cuda", "warning", "torch was built without it: the GPU idles", f"{TORCH_FIX}, built for CUDA")
        return Check("cuda", "ok", "torch was built without it")
    if _gpu():
        reason = said["reason"] or "torch finds no usable device"
        return Check("cuda", "error", f"{said['built_for']} in torch, but: {reason}", "update NVIDIA's driver")
    return Check("cuda", "ok", f"{said['built_for']} in torch, and no GPU to use it")


def _provider(name: str, outcome: Outcome, wheels: Iterable[str]) -> Check:
    label = f"provider {name.removesuffix('ExecutionProvider')}"
    if outcome.failure is None:
        return Check(label, "ok", "works")
    if name == CPU:
        fix = f"pip install --force-reinstall {' '.join(wheels)}"
        return Check(label, "error", f"does not work: {outcome.failure}", fix)
    if name == CUDA and _gpu():
        fix = "install the CUDA and cuDNN that the wheel was built for: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        return Check(label, "error", f"does not work: {outcome.failure}", fix)
    # Compiled in and of no use here: TensorRT's links an older library than pip installs; CUDA's has no GPU.
    return Check(label, "ok", f"compiled in, does not work here, and is not used ({outcome.failure})")


def _gpu() -> bool:
    try:
        return bool(machine.gpus())
    except RuntimeError:  # system.driver tells why
        return False


def _cudnn_version(number: int) -> str:
    """92400 -> 9.24.0; before 9, 8907 -> 8.9.7."""
    step = 10_000 if number >= 90_000 else 1000
    return f"{number // step}.{number % step // 100}.{number % 100}"
