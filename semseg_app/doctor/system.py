"""The machine: driver, processor, memory, disk."""

import ctypes
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from semseg_app import machine
from semseg_app.doctor.diagnosis import Check

GB = 10**9
NVIDIA = "0x10de"
"""PCI vendor."""
DRIVER_FIX = "install NVIDIA's driver, 580 or newer (in a container: start it with --gpus all)"


def driver() -> Iterator[Check]:
    """NVIDIA's driver and what it drives."""
    try:
        found = machine.gpus()
    except RuntimeError as error:
        yield Check("driver", "error", str(error), DRIVER_FIX)
        return
    for gpu in found:
        size = f"{gpu.memory_mib / 1024:.0f} GiB, {gpu.used_mib / 1024:.1f} in use"
        yield Check("driver", "ok", f"{gpu.driver} for CUDA up to {_newest_cuda()}: {gpu.name}, {size}")
    if not found and _nvidia_boards():
        yield Check("driver", "warning", "there is an NVIDIA GPU, but no driver for it", DRIVER_FIX)
    elif not found:
        yield Check("driver", "ok", "no NVIDIA GPU: everything runs on the CPU")


def processor() -> Iterator[Check]:
    """The processor, and whether int8 arithmetic is sound on it."""
    text = f"{machine.processor()}, {machine.cores()} cores"
    flags = machine.processor_flags()
    if platform.machine() in ("x86_64", "AMD64") and flags and not flags & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        # Without VNNI, ONNX Runtime's kernels add products of u8 and s8 in 16 bits, which overflow.
        yield Check(
            "processor",
            "warning",
            f"{text}, without VNNI: int8 graphs gain little and may lose accuracy",
            "measure with `semseg benchmark --data`, or use fp32",
        )
    else:
        yield Check("processor", "ok", text)


def memory() -> Iterator[Check]:
    """Memory that is free for a process now, and the shared part that PyTorch's data workers use."""
    room = machine.memory()
    if room is None:
        yield Check("memory", "ok", "this system does not tell how much is free")
    else:
        total, free = room
        text = f"{free / GB:.1f} of {total / GB:.1f} GB are free"
        fix = "end other programs, or take a larger machine"
        if free < GB / 2:
            yield Check("memory", "error", f"{text}; serving a small model takes about 0.5", fix)
        elif free < 2 * GB:
            yield Check("memory", "warning", f"{text}; a small training takes about 2", fix)
        else:
            yield Check("memory", "ok", text)
    shared = Path("/dev/shm")
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < GB / 2:
        fix = "start the container with --shm-size=2g, or train with data.workers=0"
        yield Check("memory", "warning", f"{shared} holds {size / GB:.2f} GB: data workers die of it", fix)


def disk() -> Iterator[Check]:
    """Room where models are downloaded to, and where runs are written."""
    for what, folder in (("Hugging Face cache", _hub_cache()), ("working folder", Path.cwd())):
        standing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
        free = shutil.disk_usage(standing).free
        text = f"{what}: {free / GB:.1f} GB free ({folder})"
        move = "free some space, or set HF_HOME to a larger disk" if what.startswith("Hugging") else "free some space"
        if not os.access(standing, os.W_OK):
            yield Check("disk", "warning", f"{what}: {standing} is read-only for you", "set HF_HOME, or work elsewhere")
        elif free < 5 * GB:
            yield Check("disk", "error" if free < GB else "warning", text, move)
        else:
            yield Check("disk", "ok", text)


def _hub_cache() -> Path:
    """Where huggingface_hub keeps its downloads, by the rules of its documentation (environment variables)."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    home = Path(os.environ.get("HF_HOME", home))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def _nvidia_boards() -> bool:
    """Whether a display controller (PCI class 03) of NVIDIA's is plugged in."""
    for device in Path("/sys/bus/pci/devices").glob("*"):
        vendor, kind = ((device / name).read_text(encoding="ascii") for name in ("vendor", "class"))
        if vendor.strip() == NVIDIA and kind.startswith("0x03"):
            return True
    return False


def _newest_cuda() -> str:
    """The newest CUDA that the driver runs."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "?"
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"
