"""Every key of a recipe with its default, its values and its sentence, as the Markdown of docs/recipe.md.

It is made of the classes that check a recipe, so a new key appears by itself; a key without a sentence is an error.
"""

import inspect
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import yaml
from pydantic import BaseModel

from semseg_app.training.methods import METHODS
from semseg_app.training.recipe import Recipe

HEAD = """# Every key of a recipe

`semseg schema --markdown` wrote this page. A recipe needs `name` and `data.root`; everything else has the default
below. Keys are set in the file, or on the command line as in `semseg train recipe.yaml optimizer.lr=0.01`. A wrong key
or value is refused before the first step. [Train](train.md) shows how they work together;
[few labels](semi_supervised.md) and [distill](distill.md) say which method is for what. The defaults of a method are
those of its paper or its code: change them to reproduce another of its rows, and `lr`, `steps`, `crop`, `batch_size`
and `class_balance` to fit your data.
"""
LIMITS = {
    "minimum": "from {:g}",
    "exclusiveMinimum": "above {:g}",
    "maximum": "to {:g}",
    "exclusiveMaximum": "below {:g}",
}
"""How bounds of the JSON schema are written."""
TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "null": "null"}

Model = type[BaseModel]


class Part(NamedTuple):
    """A table of the page."""

    title: str
    prefix: str
    """What stands before its keys in a dotted override."""
    model: Model
    """Its fields are the rows; those that a method inherits have a table of their own."""
    intro: str = ""


def reference() -> str:
    """The page. ValueError for a key without a sentence."""
    texts, written = [HEAD], set()
    for part in _parts():
        rows = [] if part.model in written else _rows(part)
        written.add(part.model)
        if rows:
            table = ["| key | default | values | |", "|---|---|---|---|", *rows]
            texts.append("\n".join([f"## {part.title}", "", *([part.intro, ""] if part.intro else []), *table, ""]))
    return "\n".join(texts)


def _parts() -> Iterator[Part]:
    """All tables, in the order of the page; those that several methods share come once for each."""
    yield Part("Top level", "", Recipe)
    for name, field in Recipe.model_fields.items():
        if name == "method":
            yield from _methods()
        else:
            for model in _models(field.annotation):
                yield from _with_nested(Part(f"`{name}`", f"{name}.", model, _doc(model)))


def _methods() -> Iterator[Part]:
    for name, row in METHODS.items():
        for model in reversed(row.config.__mro__):
            if not issubclass(model, BaseModel) or model is BaseModel:
                continue
            users = [user for user, other in METHODS.items() if issubclass(other.config, model)]
            whose = "all methods" if len(users) == len(METHODS) else ", ".join(users)
            title, intro = f"`method`: keys of {whose}", _doc(model)
            if model is row.config:
                title = f"`method.name={name}`"
                intro = f"{_first_paragraph(sys.modules[row.method.__module__].__doc__)} {intro}"
            yield from _with_nested(Part(title, "method.", model, intro))


def _with_nested(part: Part) -> Iterator[Part]:
    """A table, and those of the sections in it."""
    yield part
    for name in _keys(part):
        for model in _models(part.model.model_fields[name].annotation):
            prefix = f"{part.prefix}{name}"
            yield from _with_nested(Part(f"`{prefix}`", f"{prefix}.", model, _doc(model)))


def _models(annotation: Any) -> list[Model]:
    """The sections that a key may hold."""
    members = get_args(annotation) or (annotation,)
    return [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]


def _keys(part: Part) -> list[str]:
    """All of a section; of a method, whose name is the title, what its class adds or changes."""
    if part.prefix != "method.":
        return list(part.model.model_fields)
    return [name for name in inspect.get_annotations(part.model) if name in part.model.model_fields and name != "name"]


def _rows(part: Part) -> list[str]:
    properties = part.model.model_json_schema()["properties"]
    rows = []
    for name in _keys(part):
        field, key = part.model.model_fields[name], f"{part.prefix}{name}"
        if not field.description:
            raise ValueError(f"{key} ({part.model.__name__}) has no sentence; write a docstring below the field")
        default = "required" if field.is_required() else _default(field.get_default())
        cells = (f"`{key}`", default, _values(properties[name]), _first_paragraph(field.description))
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return rows


def _default(value: Any) -> str:
    """As it is written in a recipe."""
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, tuple):
        value = [list(item) if isinstance(item, tuple) else item for item in value]
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
    return f"`{text}`"


def _values(schema: dict[str, Any]) -> str:
    """What a key takes, of its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_values(choice) for choice in schema["anyOf"]))
    if "$ref" in schema or "oneOf" in schema:
        return "a section"
    if "enum" in schema or "const" in schema:
        return ", ".join(str(value) for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "")
    if kind == "array":
        inside = schema.get("prefixItems")
        return f"[{', '.join(map(_values, inside))}]" if inside else f"list of {_values(schema['items'])}"
    if kind == "object":
        return "a mapping"
    if schema.get("format") == "path":
        return "a path"
    bounds = [words.format(schema[bound]) for bound, words in LIMITS.items() if bound in schema]
    return " ".join([TYPES[kind], *bounds])


def _doc(model: Model) -> str:
    return _first_paragraph(model.__doc__)


def _first_paragraph(text: str | None) -> str:
    """On one line."""
    return " ".join((text or "").partition("\n\n")[0].split())
