"""Options that a command line names itself, apart from those that have their default."""

from collections.abc import Iterable

import typer


def given(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Those of the verb's parameters that the command line names, as options: "--max-batch"."""
    named = [name for name in names if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"]
    return [f"--{name.replace('_', '-')}" for name in named]


def refuse_given(context: typer.Context, names: Iterable[str], reason: str) -> None:
    """UserError when the command line names one of the verb's parameters, which would do nothing here."""
    from semseg_app.errors import UserError

    if options := given(context, names):
        raise UserError(f"{options[0]}: {reason}")
