"""`semseg train`: run a recipe."""

import json
from pathlib import Path
from typing import Annotated

import typer

from semseg_app.cli.init import Force, Hours, Minutes, Teacher, refuse_existing, run_seconds
from semseg_app.errors import UserError

WRITTEN, WRITTEN_FOR_STUDENT = Path("recipe.yaml"), Path("student.yaml")
"""What --data writes, without and with --teacher."""
SMALL = ("view.crop=", "batch_size=", "unlabeled_batch_size=")
"""Overrides that make the step of a dry run small."""


def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe file (YAML), or the name of a preset.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. optimizer.lr=0.01")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="In place of a recipe: write recipe.yaml, or student.yaml, for this data, as init does, and train."
        ),
    ] = None,
    teacher: Teacher = None,
    minutes: Minutes = None,
    hours: Hours = None,
    force: Force = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build everything, take one step, say what the whole run would take.")
    ] = False,
    generated: Annotated[
        bool,
        typer.Option("--generated", help="With --dry-run: on made-up photos of the preset's dataset, without weights."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the final report as JSON on stdout.")] = False,
) -> None:
    """Train a network as a recipe says."""
    from semseg_app.training.presets import recipe_file

    if generated and not dry_run:
        raise UserError("--generated: made-up photos teach nothing; add --dry-run")
    changes = overrides or []
    if data is not None:
        changes = [*([recipe] if recipe else []), *changes]
        if changes and "=" not in changes[0]:
            raise UserError(f"{changes[0]}: --data writes a recipe of its own; leave one of the two out")
        written = WRITTEN if teacher is None else WRITTEN_FOR_STUDENT
        recipe = str(written)
        if not resume:
            refuse_existing(written, force)
    elif teacher is not None:
        raise UserError("--teacher belongs to --data; a recipe has method.teacher")
    elif minutes is not None or hours is not None or force:
        raise UserError("--minutes, --hours and --force belong to --data; a recipe has schedule.steps")
    if recipe is None:
        raise UserError("name a recipe or a preset, or give --data FOLDER; see `semseg train --help`")
    if dry_run:
        if data is not None:
            raise UserError("--dry-run takes a recipe or a preset; write one with `semseg init` first")
        recipe_file(recipe)
        _dry_run(recipe, changes, generated, as_json)
        return
    if data is None or resume:
        recipe_file(recipe)  # an unknown name is refused before torch is imported, which takes seconds
    else:
        from semseg_app.training.run.progress import to_stderr
        from semseg_app.training.starter.write import write_recipe

        write_recipe(data, Path(recipe), run_seconds(minutes, hours), force, to_stderr, teacher=teacher)
    from semseg_app.training.loop import train as run
    from semseg_app.training.recipe import load_recipe

    report = run(load_recipe(recipe, changes), resume)
    if as_json:
        print(json.dumps(report, indent=2))


def _dry_run(source: str, overrides: list[str], generated: bool, as_json: bool) -> None:
    from semseg_app.training.dry_run import described, dry_run
    from semseg_app.training.recipe import load_recipe

    recipe = load_recipe(source, overrides)
    # What makes the step small is left out of the projection; all else that was overridden belongs to the run.
    whole = load_recipe(source, [override for override in overrides if not override.startswith(SMALL)])
    report = dry_run(recipe, whole, generated)
    print(json.dumps(report, indent=2) if as_json else described(report, recipe))


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a page of every key, with its default and what it does.")
    ] = False,
) -> None:
    """Print the JSON schema of a recipe, for editors."""
    if markdown:
        from semseg_app.training.reference import reference

        print(reference(), end="")
        return
    from semseg_app.training.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2))
