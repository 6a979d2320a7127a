"""Is a TensorRT binding installed, and does it work here? Asked in a process of its own.

Without a driver, plain TensorRT may take the process down with it instead of raising.
"""

import importlib.util
import os
import signal
import subprocess
import sys

from semseg_app.errors import UserError
from semseg_app.inference.engines.cuda import INSTALL
from semseg_app.inference.engines.plans import Binding

PRODUCTS: dict[Binding, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
MAJOR = {"tensorrt": "11", "tensorrt_rtx": "1"}
"""The releases that this program is written for; precision is in the graph since TensorRT 11."""
SECONDS = 120
ASK = (
    "import importlib, sys; trt = importlib.import_module(sys.argv[1]); print(trt.__version__, flush=True); "
    "assert getattr(trt, sys.argv[2])(trt.Logger(trt.Logger.ERROR)), 'it cannot be started'"
)


def is_installed(binding: Binding) -> bool:
    """Whether the module can be found; it is not imported."""
    return importlib.util.find_spec(binding) is not None


def require(binding: Binding) -> None:
    """UserError where a binding is not installed."""
    if not is_installed(binding):
        raise UserError(f"{PRODUCTS[binding]} is not installed: {INSTALL[binding]}")


def probe(binding: Binding, needed: str) -> str:
    """The version of a binding that works here.

    Args:
        binding: the module.
        needed: "Runtime" to run engines, "Builder" to build them.

    Raises:
        UserError: one line with what is missing or why it fails, and what to install.
    """
    require(binding)
    product = PRODUCTS[binding]
    # -P: a file tensorrt.py in the working folder must not pass for the package.
    command = [sys.executable, "-P", "-c", ASK, binding, needed]
    environment = os.environ | {"PYTHONFAULTHANDLER": ""}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=SECONDS, env=environment, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{product} does not start: no answer within {SECONDS} s") from error
    version = done.stdout.strip()
    if version and version.split(".")[0] != MAJOR[binding]:
        raise UserError(f"{product} {version} is installed, {MAJOR[binding]} is needed: {INSTALL[binding]}")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        crashed = done.returncode < 0
        reason = f"it crashes ({signal.Signals(-done.returncode).name})" if crashed else lines[-1] if lines else ""
        raise UserError(
            f"{product} {version or 'is installed, but'} does not work here: {reason or f'exit {done.returncode}'}. "
            f"It needs an NVIDIA GPU with a driver for CUDA 13 (release 580 or newer) and its own libraries: "
            f"{INSTALL[binding]}"
        )
    return version
