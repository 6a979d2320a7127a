"""Exact resume: everything that a run carries from one step to the next, in one file, written whole or not at all.

Data order, augmentation and dropout are functions of (seed, step) (randomness.py), and the learning rate is a function
of the step, so neither samplers nor generators nor schedulers are here. The last two files are kept: should the newest
be damaged, the one before it serves.
"""

import pickle
from pathlib import Path
from typing import Any

import torch

from semseg_app.errors import UserError
from semseg_app.files import atomic_file

KEPT = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `folder/step-<step>.pt`; `step` is the next one to run. Older files beyond the last two go."""
    with atomic_file(folder / f"step-{step:07d}.pt") as part:
        torch.save(state | {"step": step}, part)
    for old in sorted(folder.glob("step-*.pt"))[:-KEPT]:
        old.unlink()


def load_checkpoint(folder: Path, report: Any = print) -> dict[str, Any] | None:
    """The newest readable checkpoint, on the CPU; None when there is none. `report` takes a line for a damaged one."""
    files = sorted(folder.glob("step-*.pt"), reverse=True)
    for path in files:
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError) as error:
            report(f"{path}: damaged ({str(error).splitlines()[0]}); trying the one before it")
        else:
            return state
    if files:
        raise UserError(f"{folder}: no readable checkpoint; delete the run folder or choose another output=")
    return None
