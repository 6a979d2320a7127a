"""`semseg init`: a recipe for a folder of photos and masks."""

from pathlib import Path
from typing import Annotated

import typer

from semseg_app.cli.data import LayoutName
from semseg_app.errors import UserError

Minutes = Annotated[float | None, typer.Option(min=0.1, help="How long the run may take on this machine; default 20.")]
Hours = Annotated[float | None, typer.Option(min=0.01, help="The same in hours.")]
Teacher = Annotated[
    str | None,
    typer.Option(help="A trained model, as method.teacher takes it: the recipe is that of a smaller student of it."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a recipe that exists.")]


def init(
    data: Annotated[Path, typer.Argument(help="A dataset folder, or a published dataset.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The recipe to write.")] = Path("recipe.yaml"),
    teacher: Teacher = None,
    minutes: Minutes = None,
    hours: Hours = None,
    layout: LayoutName = "auto",
    force: Force = False,
) -> None:
    """Write a recipe for this data and this machine, with a reason on every line."""
    seconds = run_seconds(minutes, hours)
    refuse_existing(out, force)
    from semseg_app.training.run.progress import to_stderr
    from semseg_app.training.starter.write import write_recipe

    recipe = write_recipe(data, out, seconds, force, to_stderr, layout, teacher)
    to_stderr(f"{out}: {recipe.method.name}, {recipe.schedule.steps} steps; next: semseg train {out}")


def run_seconds(minutes: float | None, hours: float | None) -> float:
    """The time that a run may take, 20 minutes where none is given. UserError where both are."""
    if minutes is not None and hours is not None:
        raise UserError("--minutes and --hours: give one of the two")
    return 3600 * hours if hours is not None else 60 * (20 if minutes is None else minutes)


def refuse_existing(out: Path, force: bool) -> None:
    """UserError where a recipe would be overwritten, told before torch is imported."""
    if out.exists() and not force:
        raise UserError(f"{out}: exists; train it with `semseg train {out}`, or replace it with --force")
