"""What a run says while it goes on."""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from semseg_app import machine
from semseg_app.progress import SECONDS


class Spoken:
    """Takes the lines of a run, and adds one where it would be silent for long: slow steps, many validation photos.

    Args:
        say: takes each line.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say, self._last = say, time.monotonic()

    def __call__(self, line: str) -> None:
        """Say a line."""
        self._last = time.monotonic()
        self._say(line)

    def after_silence(self, line: str) -> None:
        """Say a line only if SECONDS have passed since the last one."""
        if time.monotonic() - self._last >= SECONDS:
            self(line)


def progress_line(entry: dict[str, Any], steps: int, seconds_left: float) -> str:
    """An entry of the log as one line, with the time that is left."""
    losses = "  ".join(f"{name} {value:.4f}" for name, value in entry["losses"].items())
    eta = time.strftime("%H:%M:%S", time.gmtime(seconds_left))
    pseudo = entry.get("pseudo_labels")
    if pseudo:
        losses += f"  coverage {100 * pseudo['coverage']:.1f} %  drift {pseudo['drift']:.2f}"
    return (
        f"step {entry['step']}/{steps}  {losses}  lr {entry['lr']:.2e}  {entry['images_per_second']:.1f} images/s  "
        f"ETA {eta}  {entry['memory_mb']:.0f} MB"
    )


def agreement(pseudo_labels: dict[str, float]) -> str:
    """How right confident predictions are (training/evaluation.py), to go behind a score; empty where it is unknown."""
    if "agreement" not in pseudo_labels:
        return ""
    return (
        f"; of its confident pixels ({100 * pseudo_labels['coverage']:.1f} %) "
        f"{100 * pseudo_labels['agreement']:.1f} % are right"
    )


def peak_memory_mb(device: torch.device) -> float:
    """Peak of the device's allocator, or of this process's resident memory on a CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return round(machine.peak_memory() / 2**20, 1)


def forget_peak_memory(device: torch.device) -> None:
    """A run's peak does not begin with what was run before it in this process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    machine.forget_peak_memory()


def to_stderr(line: str) -> None:
    """Where lines go unless somebody takes them."""
    print(line, file=sys.stderr, flush=True)


def nowhere(line: str) -> None:
    """Other ranks stay silent."""


def tell_validation(say: Spoken, network: str, photos: int) -> None:
    """A line about an evaluation that takes long; `photos` are scored."""
    say.after_silence(f"{network}: {photos} validation photos scored")
