"""`semseg init`: choices and measurements become a recipe whose every line says why."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.files import atomic_file
from semseg_app.training.recipe import Recipe, checked_recipe, set_key
from semseg_app.training.report.style import duration
from semseg_app.training.starter.choices import LARGEST_BATCH, Choice, choose, without_weights
from semseg_app.training.starter.lists import choose_lists, count
from semseg_app.training.starter.measure import FEWEST_STEPS, Measured, largest_batch

EVALUATIONS = 10
"""As many as a run has that is long enough; each is at least a minute from the next."""
VAL_SHARE = 0.2
"""Most of a run's time that goes to evaluations."""
SPARE = 0.95
"""The share of the time that is planned: checkpoints, the start and a slower hour take the rest."""


def write_recipe(
    root: Path,
    out: Path,
    seconds: float,
    force: bool,
    say: Callable[[str], None],
    layout: str = "auto",
    teacher: str | None = None,
) -> Recipe:
    """Look at a dataset, measure real steps, write a recipe with a reason on every line, and return it.

    Args:
        root: a dataset folder or a published dataset; lists that it lacks are drawn into its splits/.
        out: the recipe's file.
        seconds: how long the run may take on this machine.
        force: replace a file that is there.
        say: takes lines on what is being done.
        layout: how the folder is read.
        teacher: the model that a student follows, as `method.teacher` takes it; without one, the recipe is a teacher's.

    UserError where `out` exists, and where the data cannot be trained on or the teacher cannot be read.
    """
    if out.exists() and not force:
        raise UserError(f"{out}: exists; train it with `semseg train {out}`, or replace it with --force")
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"{out}: a recipe is a YAML file; end its name in .yaml")
    data = open_dataset(root, layout)
    say(data.describe())
    lists = choose_lists(data)
    if lists.warning:
        say(lists.warning)
    facts = count(open_dataset(root, layout), lists)
    name = re.sub(r"[^a-z0-9._-]+", "-", root.resolve().name.lower()).strip("-._") or "run"
    if teacher is not None:
        name += "-student"
    choices = choose(name, str(root), layout, lists, facts, teacher)
    say(f"{facts.labeled} labeled, {facts.unlabeled} unlabeled photos; measuring steps on this machine")
    most = min(LARGEST_BATCH["cuda" if torch.cuda.is_available() else "cpu"], max(2, _power_of_two(facts.labeled)))
    try:
        recipe, measured, why = largest_batch(_recipe(choices, out), most, seconds, say)
    except UserError as error:
        if not str(error).startswith("model.weights"):
            raise
        say(f"warning: {error}")
        choices = without_weights(choices, "neither an installed package nor the Hub has them")
        recipe, measured, why = largest_batch(_recipe(choices, out), most, seconds, say)
    choices.append(Choice("batch_size", recipe.batch_size, f"labeled photos per step; {why}"))
    choices += _length(measured, seconds, len(data.samples(lists.val)))
    recipe = _recipe(choices, out)
    if recipe.schedule.steps < FEWEST_STEPS:
        minutes = math.ceil(seconds / 60 * FEWEST_STEPS / recipe.schedule.steps)
        say(
            f"warning: {recipe.schedule.steps} steps fit into {duration(seconds)} here, too few to learn much; "
            f"--minutes {minutes} allows {FEWEST_STEPS}"
        )
    with atomic_file(out) as part:
        part.write_text(_text(choices, root), encoding="utf-8")
    return recipe


def _length(measured: Measured, seconds: float, val_photos: int) -> list[Choice]:
    """Steps and evaluations for a time."""
    one_evaluation = measured.val_seconds * val_photos
    evaluations = max(1, min(EVALUATIONS, int(seconds / 60), int(VAL_SHARE * seconds / max(one_evaluation, 1e-3))))
    steps = max(1, int((SPARE * seconds - evaluations * one_evaluation) / measured.step_seconds))
    step, evaluation = f"{measured.step_seconds:.2g} s", f"{one_evaluation:.2g} s"
    told = f"for {duration(seconds)} here: a step took {step}, an evaluation takes about {evaluation}"
    warmup = min(steps // 20, 100)
    return [
        Choice("schedule.steps", steps, told),
        Choice("schedule.warmup", warmup, "the first steps of adamw are small, or it starts badly"),
        Choice(
            "evaluate_every",
            max(1, steps // evaluations),
            f"{evaluations} evaluation{'' if evaluations == 1 else 's'} in all",
        ),
    ]


def _recipe(choices: list[Choice], out: Path) -> Recipe:
    content: dict[str, Any] = {}
    for choice in choices:
        set_key(content, choice.key, choice.value)
    return checked_recipe(content, out)


def _text(choices: list[Choice], root: Path) -> str:
    """YAML in the order of the choices, sections together, a comment on every line."""
    lines = [f"# Written by `semseg init {root}`. Train it: semseg train THIS-FILE; docs/train.md says what keys mean."]
    section = ""
    for choice in choices:
        before, _, key = choice.key.rpartition(".")
        if before and before != section:
            lines.append(f"{before}:")
        section = before
        value = yaml.safe_dump(choice.value, default_flow_style=True, width=4096).removesuffix("\n...\n").strip()
        lines.append(f"{'  ' if before else ''}{key}: {value}  # {' '.join(choice.why.split())}")
    return "\n".join(lines) + "\n"


def _power_of_two(number: int) -> int:
    """The largest power of two that is at most `number`, at least 1."""
    return 1 << (max(number, 1).bit_length() - 1)
