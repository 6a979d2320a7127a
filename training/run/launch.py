"""The accelerator that a recipe asks for, on what the launcher started."""

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration

from semseg_app.errors import UserError
from semseg_app.training.recipe import Recipe
from semseg_app.training.run.trackers import require_trackers


def make_accelerator(recipe: Recipe) -> Accelerator:
    """One process, or one of those that `accelerate launch` started. UserError where the recipe does not fit them."""
    cuda = torch.cuda.is_available()
    if recipe.precision == "fp16" and not cuda:
        raise UserError("precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
    require_trackers(recipe.tracking)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:  # accelerate keeps the precision of the first run in a process; a second run may have another
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=not cuda,
        mixed_precision="no" if recipe.precision == "fp32" else recipe.precision,
        log_with=list(recipe.tracking) or None,
        project_config=ProjectConfiguration(logging_dir=str(recipe.run_folder / "tracking")),
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    if accelerator.num_processes != world:
        raise UserError(
            f"launched as {world} processes, but accelerate sees {accelerator.num_processes}; check its config"
        )
    for name, size in (("batch_size", recipe.batch_size), ("unlabeled_batch_size", recipe.unlabeled_batch_size)):
        parts = world * recipe.accumulate
        if size and size % parts:
            near = max(parts, round(size / parts) * parts)
            raise UserError(
                f"{name}: {size} cannot be split over {world} processes x accumulate {recipe.accumulate}; use {near}"
            )
    return accelerator
