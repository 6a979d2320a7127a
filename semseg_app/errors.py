"""The one exception that means: the user can fix this; and what pydantic found, as one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `semseg doctor` speaks where pydantic cannot be imported
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_FORM = re.compile(r"(literal|list|tuple|dict)\[.*\]|int|float|str|bool")
_FORMS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "list[int]": "a list of whole numbers",
    "tuple[int, ...]": "a list of whole numbers",
}
"""What pydantic calls a form of a value -> what a recipe's author calls it."""


class UserError(Exception):
    """A mistake in what was given to us. The message is one line: what is wrong, in which file, and the fix.

    The command line prints it without a traceback and exits with 2; the HTTP API answers 4xx with it.
    """


def explain(
    error: ValidationError, source: Path | str, written: Callable[[list[str]], list[str]] = lambda key: key
) -> UserError:
    """The first problem that pydantic found, as one line that names the key.

    `written` turns the parts of a key, as pydantic has them, into those that its author wrote.
    """
    problems = error.errors()
    first = problems[0]
    key, form = _key_and_form(first)
    # Of a value that has none of the forms which its key may have, pydantic tells one problem per form.
    same = [each for each in problems if form and _key_and_form(each)[0] == key]
    if len(same) > 1:
        forms = dict.fromkeys(_form(each) for each in same)
        message = f"must be {' or '.join(forms)}, not {first['input']!r}"
    else:
        message = _problem(first)
    left = len(problems) - max(len(same), 1)
    more = f" (and {left} more)" if left else ""
    key = ".".join(written(key.split(".")))
    return UserError(f"{source}: {key + ': ' if key else ''}{message}{more}")


def _key_and_form(problem: ErrorDetails) -> tuple[str, str]:
    """The key, and the form that pydantic tried where a key may have several ("int", "literal['encoder']")."""
    parts = [str(part) for part in problem["loc"]]
    tried = next((index for index, part in enumerate(parts) if _FORM.fullmatch(part)), len(parts))
    return ".".join(parts[:tried]), "".join(parts[tried : tried + 1])


def _form(problem: ErrorDetails) -> str:
    form = _key_and_form(problem)[1]
    if form.startswith("literal["):
        return " or ".join(form.removeprefix("literal[").removesuffix("]").replace("'", "").split(","))
    return _FORMS.get(form, form)


def _problem(problem: ErrorDetails) -> str:
    context = problem.get("ctx", {})
    match problem["type"]:
        case "union_tag_invalid":
            known = context["expected_tags"].replace("'", "").split(", ")
            tag = str(context["tag"])
            return f"unknown {_key_of(context)} {tag!r}; choose one of {', '.join(known)}{did_you_mean(tag, known)}"
        case "union_tag_not_found":
            return f"{_key_of(context)} is missing"
        case "literal_error":
            known = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            given = problem["input"]
            return f"unknown value {given!r}; choose one of {', '.join(known)}{did_you_mean(str(given), known)}"
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "is missing"
        case "tuple_type":
            given = [part.strip() for part in str(problem["input"]).strip("()").split(",")]
            return f"must be a list, in brackets: [{', '.join([*given, '...'] if len(given) == 1 else given)}]"
        case "string_type" if isinstance(problem["input"], bool | int | float | date):
            return f"must be text, not {problem['input']}; write it in quotes (YAML reads no, yes, 1 as other things)"
        case "int_parsing" | "float_parsing" | "float_type" | "bool_parsing" | "bool_type":
            return f"{plain(problem['msg'])}, not {problem['input']!r}"
        case _:
            return plain(problem["msg"])


def plain(message: str) -> str:
    """A message of pydantic in plain words: "must be ..." for "Input should be ..."."""
    message = message.replace("Value error, ", "").replace("Assertion failed, ", "").replace("Input should", "must")
    message = message.replace("a valid integer", "a whole number").replace("a valid number", "a number")
    message = message.replace("a valid boolean, unable to interpret input", "true or false")
    message = re.sub(
        "a valid dictionary or (instance of|object to extract fields from).*", "a section of keys", message
    )
    return message.split(", unable to parse")[0]


def _key_of(context: Mapping[str, Any]) -> str:
    """The key that tells the members of a union apart; pydantic quotes it."""
    return str(context["discriminator"]).strip("'")


def did_you_mean(name: str, known: Iterable[str], count: int = 1) -> str:
    """The end of a message about an unknown name: "; did you mean ...?", or nothing where no known name is near."""
    by_lower = {each.lower(): each for each in known}  # AdamW is adamw, and not adam
    near = [by_lower[each] for each in difflib.get_close_matches(name.lower(), by_lower, n=count, cutoff=0.5)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "failed to allocate",
    "bad_alloc",
    "cannot allocate memory",
    "failed to map segment",
)
"""What torch, CUDA, ONNX Runtime and the loader of libraries write when memory runs out, in lower case."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error of Python or of a runtime says that memory, on a CPU or a GPU, ran out."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in OUT_OF_MEMORY)


@contextmanager
def memory_advice(doing: str, fix: str) -> Iterator[None]:
    """Inside, running out of memory, on a CPU or a GPU, becomes a UserError: what was being done, and the fix."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # ONNX Runtime's own are no RuntimeErrors
        if is_out_of_memory(error):
            raise UserError(f"{doing}: out of memory; {fix}") from None
        raise
