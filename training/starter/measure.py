"""How large a batch fits and how long a step takes here: measured with real steps of the loop itself."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from semseg_app import machine
from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.models import load
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.evaluation import evaluate_network
from semseg_app.training.loop import train
from semseg_app.training.recipe import Recipe, ScheduleSection
from semseg_app.training.report.content import read_run
from semseg_app.training.run.launch import make_accelerator

STEPS = 3
"""Steps that count; one goes before them to warm up."""
FEWEST_STEPS = 300
MEMORY_SHARE = 0.6
"""Of the memory that is free, for a step: the rest is for evaluations and whatever else the machine does."""


class Measured(NamedTuple):
    """What a recipe costs on this machine."""

    step_seconds: float
    val_seconds: float
    """For one validation photo."""
    memory_mb: float
    """Peak of the measured steps."""


def measure(recipe: Recipe) -> Measured:
    """Run a few steps of a recipe, and score a few validation photos. UserError where it cannot run."""
    with tempfile.TemporaryDirectory(prefix="semseg-init-") as place:
        changes = {
            "output": Path(place) / "run",
            "schedule": ScheduleSection(steps=STEPS + 1),
            "log_every": 1,
            "push_to": None,
            "tracking": (),
            "patience": None,
            "data": recipe.data.model_copy(update={"val": None}),
        }
        short = recipe.model_copy(update=changes)
        train(short, say=lambda line: None)
        lines = read_run(short.run_folder).lines
        steps = [recipe.batch_size / max(line["images_per_second"], 1e-3) for line in lines[1:]]
        network = load(short.run_folder / "last").to("cuda" if torch.cuda.is_available() else "cpu")
        data = open_dataset(recipe.data.root, recipe.data.layout)
        assert recipe.data.val is not None
        few = ImageDataset(data, data.samples(recipe.data.val)[:2], True)
        began = time.monotonic()
        evaluate_network(network, few, make_accelerator(short), None, recipe.val_window)
        val_seconds = (time.monotonic() - began) / len(few)
    return Measured(statistics.median(steps), val_seconds, max(line["memory_mb"] for line in lines))


def largest_batch(
    recipe: Recipe, most: int, seconds: float, say: Callable[[str], None]
) -> tuple[Recipe, Measured, str]:
    """The recipe with the largest batch of 2, 4, 8 ... up to `most` that fits, what it costs, and why it was taken.

    Batches stop growing where fewer than FEWEST_STEPS of the next would fit into the run's `seconds`: many small steps
    teach more than a few large ones.

    A CPU's memory ends a process without a word, so batches grow only while the next is sure to fit: a step of twice
    the photos takes at most twice the memory. On a GPU the first that does not fit is an error, which is caught.
    """

    def measured_aloud(tried: Recipe) -> Measured:
        costs = measure(tried)
        say(f"  batch of {tried.batch_size}: {costs.step_seconds:.2g} s per step, {costs.memory_mb / 1024:.1f} GiB")
        return costs

    free = _free_mb()
    fits = recipe.model_copy(update={"batch_size": 2})
    measured = measured_aloud(fits)
    why = f"the most that was tried; a step takes {measured.memory_mb / 1024:.1f} GiB"
    while fits.batch_size < most:
        if seconds < 2 * measured.step_seconds * FEWEST_STEPS:
            why = f"larger ones would leave fewer than {FEWEST_STEPS} steps in the time"
            break
        if 2 * measured.memory_mb > MEMORY_SHARE * free:
            why = f"{measured.memory_mb / 1024:.1f} GiB in a step; twice as many may not fit into {free / 1024:.1f} GiB"
            break
        larger = fits.model_copy(update={"batch_size": 2 * fits.batch_size})
        try:
            measured = measured_aloud(larger)
        except UserError as error:
            if "memory" not in str(error):
                raise
            why = f"{larger.batch_size} do not fit into {free / 1024:.1f} GiB"
            break
        fits = larger
        why = f"the most that was tried; a step takes {measured.memory_mb / 1024:.1f} of {free / 1024:.1f} GiB"
    return fits, measured, why


def _free_mb() -> float:
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0]) / 2**20
    room = machine.memory()
    return room[1] / 2**20 if room else 4096.0
