"""`semseg train`: run a recipe."""

import json
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file (YAML), or the name of a preset.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. optimizer.lr=0.01")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the final report as JSON on stdout.")] = False,
) -> None:
    """Train a network as a recipe says."""
    from semseg_app.training.presets import recipe_file

    recipe_file(recipe)  # an unknown name is refused before torch is imported, which takes seconds
    from semseg_app.training.loop import train as run
    from semseg_app.training.recipe import load_recipe

    report = run(load_recipe(recipe, overrides or []), resume)
    if as_json:
        print(json.dumps(report, indent=2))


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
