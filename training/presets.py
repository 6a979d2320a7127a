"""The recipe or comparison that a name stands for. Imports neither torch nor the recipe's schema, so that a typo is
told at once."""

from pathlib import Path

from semseg_app.errors import UserError, did_you_mean

PRESETS = Path(__file__).parent / "recipes"
COMPARISONS = Path(__file__).parent / "comparisons"


def recipe_file(source: str) -> Path:
    """The YAML file: `source` itself, or the preset of that name. UserError where neither exists."""
    path = Path(source)
    if path.is_file():
        return path
    name = source.removesuffix(".yaml")
    preset = PRESETS / f"{name}.yaml"
    if preset.is_file():
        return preset
    if (path / "recipe.yaml").is_file() and (path / "checkpoints").is_dir():
        raise UserError(f"{source}: is a run folder; `semseg train {path / 'recipe.yaml'} --resume` goes on with it")
    if path.is_dir():
        raise UserError(f"{source}: is a folder; `semseg train --data {source}` writes a recipe for it and trains it")
    if path.suffix in (".yaml", ".yml"):
        near = did_you_mean(path.name, [file.name for file in path.parent.glob("*.y*ml")])
        raise UserError(f"{source}: no such recipe file; `semseg init DATA -o {source}` writes one{near}")
    names = sorted(preset.stem for preset in PRESETS.glob("*.yaml"))
    choices = did_you_mean(name, names) or f"; presets: {', '.join(names)}"
    raise UserError(f"{source}: no such recipe file, and no preset of that name{choices}")


def comparison_file(source: str) -> Path:
    """The YAML file: `source` itself, or the comparison of that name. UserError where neither exists."""
    path = Path(source)
    if path.is_file():
        return path
    name = source.removesuffix(".yaml")
    shipped = COMPARISONS / f"{name}.yaml"
    if not shipped.is_file():
        names = sorted(comparison.stem for comparison in COMPARISONS.glob("*.yaml"))
        near = did_you_mean(name, names)
        raise UserError(
            f"{source}: no such comparison file or run folder, and no comparison of that name; comparisons: "
            f"{', '.join(names)}{near}"
        )
    return shipped
