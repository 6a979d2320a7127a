"""What is installed, by the metadata of the environment: nothing is imported."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from semseg_app.doctor.diagnosis import Check

OURSELVES = "semseg-app"
EXTRAS = {"train": "training and the torch engine", "export": "exporting", "serve": "serving and the web page"}
"""Extra -> what it is for. `cpu`, `gpu`, `openvino` and `rtx` are engines, which engines.py tries."""
ONNX_RUNTIME_WHEELS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
    "ort-nightly",
    "ort-nightly-gpu",
)
"""All of them install the one module `onnxruntime`: the last one wins, and removing one breaks the others."""


def python() -> Iterator[Check]:
    """The interpreter."""
    yield Check("python", "ok", f"{platform.python_version()} ({sys.executable})")


def extras() -> Iterator[Check]:
    """The packages that every installation needs, and then those of each extra."""
    try:
        wanted = [Requirement(line) for line in requires(OURSELVES) or []]
    except PackageNotFoundError:
        yield Check("packages", "error", f"{OURSELVES} runs but is not installed", "pip install -e . in its folder")
        return
    if wrong := _wrong(wanted, ""):
        yield Check("packages", "error", "; ".join(wrong), f"pip install --upgrade {OURSELVES}")
    else:
        yield Check("packages", "ok", f"{OURSELVES} {version(OURSELVES)} and all that it needs")
    for extra, purpose in EXTRAS.items():
        name = f"extra {extra}"
        if wrong := _wrong(wanted, extra):
            fix = f"pip install --upgrade '{OURSELVES}[{extra}]'"
            yield Check(name, "warning", f"no {purpose}: {'; '.join(wrong)}", fix)
        else:
            yield Check(name, "ok", f"complete, for {purpose}")


def onnx_runtime_wheels() -> dict[str, str]:
    """Which distributions that provide the module `onnxruntime` are installed, with their versions."""
    found = {}
    for wheel in ONNX_RUNTIME_WHEELS:
        try:
            found[wheel] = version(wheel)
        except PackageNotFoundError:
            continue
    return found


def _wrong(wanted: list[Requirement], extra: str) -> list[str]:
    """What is missing or of a wrong version among the requirements of an extra ("" = of every installation)."""
    missing, others = [], []
    for requirement in wanted:
        marker = requirement.marker
        of_all = marker is None or marker.evaluate({"extra": ""})
        of_extra = not of_all and marker is not None and marker.evaluate({"extra": extra})
        # `export` needs `train`, which has a line of its own.
        if requirement.name == OURSELVES or not (of_extra if extra else of_all):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            others.append(f"{requirement.name} is {found}, not {requirement.specifier}")
    return [f"not installed: {', '.join(missing)}", *others] if missing else others
