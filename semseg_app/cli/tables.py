"""The one table that subcommands print for people."""

from collections.abc import Iterable, Sequence


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None, texts: int = 1
) -> None:
    """Print a table on stdout; the first `texts` columns are aligned to the left, numbers to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title and Text(title), title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < texts else "right")
    for row in rows:
        table.add_row(*map(Text, row))  # plain text: a class may be called [red]
    Console(highlight=False).print(table)
