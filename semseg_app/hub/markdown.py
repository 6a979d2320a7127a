"""Markdown whose contents somebody else chose: names of classes, data and weights."""

from collections.abc import Sequence


def cell(text: str) -> str:
    """One line of plain text, for a table or a sentence: no markup, no HTML."""
    flat = " ".join(text.split())
    for character in "\\`*_[]|":
        flat = flat.replace(character, f"\\{character}")
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def details(title: str, body: str) -> str:
    """Folded away until somebody asks."""
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
