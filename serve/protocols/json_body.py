"""JSON bodies, checked against a type, with one clear line for what does not fit."""

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

T = TypeVar("T", bound=BaseModel)


async def parse_json(data: bytes, kind: type[T]) -> T:
    """In a thread: megabytes of JSON would keep all others waiting. HTTPException 400 no JSON, 422 it does not fit."""
    return await asyncio.to_thread(_parse, data, kind)


def _parse(data: bytes, kind: type[T]) -> T:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        status = 400 if first["type"] == "json_invalid" else 422
        raise HTTPException(status, " ".join(f"{where or 'the body'}: {first['msg']}".split())) from None


def json_body(kind: type[BaseModel], example: Any = None) -> dict[str, Any]:
    """What OpenAPI says of a body that `parse_json` reads."""
    schema = kind.model_json_schema()
    content: dict[str, Any] = {"schema": _inlined(schema, schema.pop("$defs", {}))}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A schema with its references to definitions replaced by what they mean."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(part, definitions) for key, part in schema.items()}
