"""`semseg train RECIPE --dry-run`: everything is built and one step is taken; then what the whole run would take.

A recipe can be tried on a small machine: with a smaller crop and batch as overrides the step is small, and the figures
are projected to the recipe as it stands, in proportion to the pixels of a step.
"""

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semseg_app.errors import UserError
from semseg_app.training.loop import set_up
from semseg_app.training.methods.distillation import DistillationKeys
from semseg_app.training.recipe import Recipe
from semseg_app.training.run.folder import RunFolder
from semseg_app.training.run.launch import make_accelerator
from semseg_app.training.run.progress import Spoken, peak_memory_mb, to_stderr
from semseg_app.training.run.run import Run
from semseg_app.training.stand_ins import with_stand_ins

MB = 2**20


def dry_run(recipe: Recipe, whole: Recipe, generated: bool = False) -> dict[str, Any]:
    """Take one step of a recipe and say what it took. Nothing is left behind.

    Args:
        recipe: what is run, on its own data and weights.
        whole: the same without what was changed to make the step small; figures are projected to it.
        generated: on made-up photos of the dataset's size and classes instead, from random weights.

    Returns:
        Parameters, losses of the step, its seconds and peak memory on this machine, and under `projected` seconds per
        step, hours and memory of `whole`. UserError where the recipe cannot run, or a loss is not finite.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tried = with_stand_ins(recipe, folder) if generated else recipe
        # No validation, nothing kept in memory, nothing published.
        data = tried.data.model_copy(update={"val": None, "cache": False})
        method = tried.method
        if isinstance(method, DistillationKeys) and method.teacher_cache:  # filling it takes a pass over all photos
            to_stderr("dry run: without method.teacher_cache; the real steps are faster")
            method = method.model_copy(update={"teacher_cache": None})
        update = {"data": data, "method": method, "output": folder / "run", "push_to": None}
        tried = tried.model_copy(update=update)
        run = set_up(tried, False, make_accelerator(tried), RunFolder(tried.run_folder), Spoken(to_stderr))
        try:
            before = peak_memory_mb(run.accelerator.device)
            seconds = _timed_step(run)
        finally:
            run.stop.restore()
        peak = peak_memory_mb(run.accelerator.device)
        losses = {name: float(value) for name, value in run.sums.items()}
        if wrong := [name for name, value in losses.items() if not math.isfinite(value)]:
            raise UserError(f"{recipe.name}: the first step's loss {' and '.join(wrong)} is not finite")
        kept, learned = _kept_mb(run)
        larger = pixels(whole) / pixels(tried)
        # On a CPU the peak is that of the process, which has long imported and built everything.
        base = kept if run.accelerator.device.type == "cuda" else before + kept - _size_mb(run.method)
        per_step = seconds * larger
        return {
            "name": recipe.name,
            "network": f"{run.spec.architecture}/{run.spec.encoder}",
            "parameters": sum(parameter.numel() for parameter in run.network.parameters()),
            "learned_parameters": learned,
            "classes": run.spec.num_classes,
            "crop": list(tried.view.crop),
            "batch_size": tried.batch_size,
            "unlabeled_batch_size": _unlabeled_batch(tried),
            "losses": {name: round(value, 4) for name, value in losses.items()},
            "device": run.facts["device"],
            "seconds_per_step": round(seconds, 4),
            "memory_mb": round(peak),
            "projected": {
                "crop": list(whole.view.crop),
                "batch_size": whole.batch_size,
                "unlabeled_batch_size": _unlabeled_batch(whole),
                "steps": whole.schedule.steps,
                "seconds_per_step": round(per_step, 2),
                "hours": round(per_step * whole.schedule.steps / 3600, 2),
                "memory_mb": round(base + max(peak - base, 0) * larger),
            },
        }


def described(report: dict[str, Any], recipe: Recipe) -> str:
    """The report for people."""
    projected = report["projected"]
    optimizer = recipe.optimizer
    losses = ", ".join(f"{name} {value:.4f}" for name, value in report["losses"].items())
    return "\n".join(
        [
            f"{report['name']}: {recipe.method.name}, {report['network']}, {report['classes']} classes",
            f"  parameters: {report['parameters'] / 1e6:.2f} million, {report['learned_parameters'] / 1e6:.2f} learned "
            "(with what only training has)",
            f"  one step of {_batch(report)}: {losses}",
            f"  took {report['seconds_per_step']} s and {report['memory_mb']} MB on {report['device']}",
            f"  schedule: {projected['steps']} steps, {optimizer.name}, lr {optimizer.lr:g} "
            f"(decoder {optimizer.lr * optimizer.head_lr_factor:g})",
            f"  projected for {_batch(projected)}: about {projected['seconds_per_step']} s per step, "
            f"{projected['hours']} hours, {projected['memory_mb']} MB on this device (in proportion to pixels; "
            "attention over whole images grows faster)",
        ]
    )


def pixels(recipe: Recipe) -> int:
    """Pixels of the photos of one step, each counted once."""
    height, width = recipe.view.crop
    return height * width * (recipe.batch_size + (_unlabeled_batch(recipe) or 0))


def _timed_step(run: Run) -> float:
    """Seconds of a step; on a GPU of the second one, because the first chooses kernels."""
    if run.accelerator.device.type == "cuda":
        run.learn(0)
        run.sums = {}
        torch.cuda.synchronize()
    begin = time.perf_counter()
    run.learn(run.done)
    if run.accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _kept_mb(run: Run) -> tuple[float, int]:
    """Megabytes that stay between steps (weights, gradients, state of the optimizer), and how many parameters learn."""
    learned = [parameter for parameter in run.method.parameters() if parameter.requires_grad]
    gradients = sum(parameter.numel() * parameter.element_size() for parameter in learned) / MB
    states = [value for state in run.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    optimizer = sum(value.numel() * value.element_size() for value in states) / MB
    return _size_mb(run.method) + gradients + optimizer, sum(parameter.numel() for parameter in learned)


def _size_mb(module: nn.Module) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values()) / MB


def _unlabeled_batch(recipe: Recipe) -> int | None:
    return None if recipe.data.unlabeled is None else recipe.unlabeled_batch_size or recipe.batch_size


def _batch(report: dict[str, Any]) -> str:
    more = f" + {report['unlabeled_batch_size']}" if report["unlabeled_batch_size"] else ""
    return f"{report['batch_size']}{more} crops of {report['crop'][0]}x{report['crop'][1]}"
