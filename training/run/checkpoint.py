"""Exact resume: everything that a run carries from one step to the next, in one file, written whole or not at all.

Data order, augmentation and dropout are functions of (seed, step) (training/data/randomness.py), and the learning rate
is a function of the step, so neither samplers nor generators nor schedulers are here. The last two files are kept:
should the newest be damaged, the one before it serves.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from semseg_app.errors import UserError
from semseg_app.files import atomic_file

KEPT = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `folder/step-<step>.pt`; `step` is the next one to run. Older files beyond the last two are deleted."""
    # Through Python's file, whose error says what is wrong with the disk; torch's own does not.
    with atomic_file(folder / f"step-{step:07d}.pt") as part, part.open("wb") as file:
        torch.save(state | {"step": step}, file)
    for old in sorted(folder.glob("step-*.pt"))[:-KEPT]:
        old.unlink()


def load_checkpoint(folder: Path, report: Callable[[str], None] = print) -> dict[str, Any] | None:
    """The newest sound checkpoint, on the CPU; None in a folder without any.

    `report` takes a line for every damaged one. UserError where all are damaged.
    """
    files = sorted(folder.glob("step-*.pt"), reverse=True)
    for path in files:
        try:
            return _read(path)
        except Exception as error:  # damage shows in as many ways as there are bytes
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            report(f"{path}: damaged ({reason}); trying the one before it")
    if files:
        raise UserError(f"{folder}: no readable checkpoint; delete the run folder or choose another output=")
    return None


def _read(path: Path) -> dict[str, Any]:
    # torch.load does not look at the checksums that torch.save wrote.
    with zipfile.ZipFile(path) as archive:
        if (wrong := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {wrong} is wrong")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if "step" not in state:
        raise ValueError("it is no checkpoint")
    return state
