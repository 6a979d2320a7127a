"""How `--help` looks: whole sentences, and what to give in plain words."""

import re
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

TYPES = {"list[Path]": "path", "list[str]": "text", "str": "text", "int range": "int", "float range": "float"}
"""What typer calls the type of an option -> what its help says. A range is shown behind the sentence."""
_TYPE = re.compile(rf"<({'|'.join(map(re.escape, TYPES))})>")


class Verb(TyperCommand):
    """A verb whose help says `<path>` where typer says `<list[Path]>`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments and options, a line each."""
        records: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                name, sentence = record
                plain = _TYPE.sub(lambda match: f"<{TYPES[match[1]]}>", name)
                records[parameter.param_type_name].append((plain, sentence))
        for kind, lines in records.items():
            if lines:
                with formatter.section(f"{kind.title()}s"):
                    formatter.write_dl(lines)


class Verbs(TyperGroup):
    """A list of verbs with the whole first sentence of each; typer cuts it at the width of the terminal."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The verbs, in the order in which they were added."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        lines = [(name, it.get_short_help_str(limit=1000)) for name, it in commands if it and not it.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(lines)


class App(typer.Typer):
    """A group of verbs with this help."""

    def __init__(self, **options: Any):
        super().__init__(cls=Verbs, no_args_is_help=True, rich_markup_mode=None, **options)

    def command(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        """As typer's."""
        return super().command(*arguments, **{"cls": Verb, **options})
