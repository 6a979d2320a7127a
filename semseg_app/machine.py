"""This machine and what is installed on it, as far as results and diagnoses depend on them. Standard library alone."""

import importlib.metadata
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = (
    "semseg-app",
    "numpy",
    "torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "timm",
    "segmentation-models-pytorch",
)
"""Those whose version a measurement depends on."""


class Gpu(NamedTuple):
    """One NVIDIA GPU, as nvidia-smi tells it; memory in MiB, 0 where it does not say."""

    name: str
    driver: str
    memory_mib: int
    used_mib: int
    capability: str
    """Compute capability: "9.0"."""


def processor() -> str:
    """The processor's name, or its architecture where the system does not tell the name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def processor_flags() -> set[str]:
    """The instruction sets that Linux names, in its spelling ("avx512_vnni"); empty elsewhere."""
    return set(_cpuinfo("flags").split())


def cores() -> int:
    """Logical cores that this process may use: its affinity, limited by its container's CPU quota; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(Path("/sys/fs/cgroup"), _read(Path("/proc/self/cgroup")))
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def threads() -> int:
    """CPU threads of an engine that was given no number: OMP_NUM_THREADS where it is set, else `cores`.

    ONNX Runtime's and OpenVINO's own defaults count cores that the process may not use, and its threads then wait for
    each other: with one allowed core of several, `predict` took 1.9 times the time of one thread.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return int(limit) if limit.isdecimal() and int(limit) > 0 else cores()


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs; empty where there is no driver. RuntimeError with one line when the driver does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    fields = "name,driver_version,memory.total,memory.used,compute_cap"
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"nvidia-smi: {error}") from error
    if answer.returncode:
        raise RuntimeError(f"nvidia-smi: {' '.join((answer.stdout + answer.stderr).split())}")
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
    return [Gpu(name, driver, _number(total), _number(used), cap) for name, driver, total, used, cap in rows]


def memory() -> tuple[int, int] | None:
    """Bytes of memory (in all, available), a container's limit taken into account; None where Linux does not tell."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
    total, available = (1024 * int(lines[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
    group = Path("/sys/fs/cgroup")
    limit = _read(group / "memory.max")
    if limit.isdecimal():
        statistics = dict(line.split() for line in _read(group / "memory.stat").splitlines())
        # Files that were read lately count as used, but the kernel gives their memory back when it is asked for.
        used = int(_read(group / "memory.current")) - int(statistics["inactive_file"])
        total, available = min(total, int(limit)), min(available, int(limit) - used)
    return total, available


def forget_peak_memory() -> None:
    """From now on `peak_memory` counts anew, where the system lets it (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int:
    """The most bytes of memory that this process held at once, ever or since `forget_peak_memory`.

    Linux's VmHWM: unlike getrusage's ru_maxrss, it does not begin with what the process that started this one held.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Version of Python, and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """What measurements are worth nothing without: plain values for JSON."""
    try:
        found = gpus()
    except RuntimeError:  # `semseg doctor` tells why
        found = []
    room = memory()
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_gb": round(room[0] / 1e9, 1) if room else None,
        "gpus": [gpu.name for gpu in found],
        "driver": found[0].driver if found else None,
        "system": f"{platform.system()} {platform.release()}",
    }


def _cpu_quota(root: Path, groups: str) -> float | None:
    """The smallest CPU quota, in cores, of this process's control groups and all groups above them.

    Args:
        root: where the control groups are mounted.
        groups: the text of /proc/self/cgroup: lines "id:controllers:path"; version 2 has the id 0 and no controllers.
    """
    quotas = []
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        own = Path(path.lstrip("/"))
        # In a container the path may be the host's, which is not mounted here; the mount's top is then the own group.
        for folder in {top, *(top / part for part in (own, *own.parents))}:
            if controllers:
                limits = [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
            else:
                limits = _read(folder / "cpu.max").split()
            if len(limits) == 2 and all(text.isdecimal() and int(text) > 0 for text in limits):
                quotas.append(int(limits[0]) / int(limits[1]))
    return min(quotas, default=None)


def _cpuinfo(field: str) -> str:
    lines = (line.partition(":") for line in _read(Path("/proc/cpuinfo")).splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == field), "")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _number(text: str) -> int:
    """MIG slices and some boards answer "[N/A]" or "[Insufficient Permissions]"."""
    return int(text) if text.isdecimal() else 0
