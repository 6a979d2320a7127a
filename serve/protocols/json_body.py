"""JSON bodies, checked against a type, with one clear line for what does not fit."""

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

T = TypeVar("T", bound=BaseModel)


async def parse_json(data: bytes, kind: type[T]) -> T:
    """Parse and check a JSON body, in a thread, because megabytes of JSON would keep all other requests waiting.

    HTTPException 400 when it is not JSON, 422 when it does not fit `kind`.
    """
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
