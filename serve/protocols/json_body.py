"""JSON bodies, checked against a type, with one clear line for what does not fit."""

import asyncio
import base64
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, model_validator
from starlette.exceptions import HTTPException

T = TypeVar("T", bound=BaseModel)
MOST_LISTS, MOST_VALUES = 100_000, 2_000_000
"""Lists and objects, and all values, in a JSON body. Python's lock is held until the last one is made, and lists take
forty times their text in memory: 30 MiB of empty lists stopped a server for seven seconds."""
MOST_KEYS = 1000
"""Keys in a JSON body. Pydantic describes each one that it does not know: two million stopped a server for 37 s."""

_STANDARD = bytes.maketrans(b"-_", b"+/")


class JsonObject(BaseModel):
    """A part of a body. A null counts as left out: clients with typed requests (Java, C#, Go) write out every field."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, sent: Any) -> Any:
        return {name: value for name, value in sent.items() if value is not None} if isinstance(sent, dict) else sent


async def parse_json(data: bytes, kind: type[T], most_keys: int = MOST_KEYS) -> T:
    """Parse and check a JSON body, in a thread, because megabytes of JSON would keep all other requests waiting.

    HTTPException 400 when it is not JSON, 413 when it has too many values, 422 when it does not fit `kind`.
    """
    return await asyncio.to_thread(_parse, data, kind, most_keys)


def check_parts(data: bytes, what: str, most_keys: int = MOST_KEYS) -> None:
    """HTTPException 413 when JSON has so many parts that it would keep all other requests waiting."""
    lists = data.count(b"[") + data.count(b"{")
    if lists > MOST_LISTS or data.count(b":") > most_keys or lists + data.count(b",") > MOST_VALUES:
        raise HTTPException(
            413,
            f"{what} holds more than {MOST_LISTS} lists, {most_keys} keys or {MOST_VALUES} values; send less at once",
        )


def _parse(data: bytes, kind: type[T], most_keys: int) -> T:
    check_parts(data, "the body", most_keys)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        status = 400 if first["type"] == "json_invalid" else 422
        raise HTTPException(status, " ".join(f"{where or 'the body'}: {first['msg']}".split())) from None


def decode_base64(text: str) -> bytes:
    """Base64 as programs write it: alone or in a data URL, of either alphabet, in lines, with or without padding.

    ValueError when it is none of these.
    """
    head, comma, after = text.partition(",")
    if comma:
        if not (head.startswith("data:") and head.endswith(";base64")):
            raise ValueError("neither base64 nor a data URL of it")
        text = after
    data = text.encode("ascii").translate(_STANDARD, b" \t\r\n").rstrip(b"=")
    return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)


def json_body(kind: type[BaseModel], example: Any = None) -> dict[str, Any]:
    """The OpenAPI description of a body that `parse_json` reads."""
    schema = kind.model_json_schema()
    content: dict[str, Any] = {"schema": _inlined(schema, schema.pop("$defs", {}))}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A schema with its references replaced by the definitions."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(part, definitions) for key, part in schema.items()}
