"""Requests and answers of KServe v2: JSON, with tensors inside it or, in Triton's extension, as bytes behind it."""

import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from semseg_app.serve.protocols.json_body import JsonObject, check_parts

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_JSON_BYTES = 18 * 2**20
"""Limit on the JSON part: a photo of 1024 x 1024 pixels in nested lists, as `json.dumps` writes it. Larger tensors come
as bytes."""
PIECE = 2**15
"""Bytes of numbers that are read at once, and numbers that are written at once. Python's lock is held for each piece, a
millisecond, and not for a photo of 18 MiB, which takes half a second and thirty times its size in memory. Searching
and counting in all its text holds the lock for a few hundredths of a second each."""
MOST_TENSORS = 16
"""Inputs, and outputs, in one body. Each one that is wrong is described, until the first error is told."""
MOST_DEPTH = 16
"""Lists within lists."""
MAX_DIMENSION = 2**31 - 1
"""Products of shapes within it can be printed; JSON could hold numbers of thousands of digits, which Python refuses to
print."""

_BEFORE_NUMBERS = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*(?=\[)')
_MARK = [secrets.token_hex(16)]
"""Stands for numbers that were taken out of a body. A body cannot hold it by chance."""
OUT_OF_RANGE = ("greater_than_equal", "less_than_equal", "int_parsing_size")
"""Pydantic's types of error for numbers that are too large or too small."""


class Tensor(JsonObject):
    """An input: numbers in `data`, or `binary_data_size` bytes behind the JSON."""

    name: str
    datatype: str
    shape: Annotated[
        list[Annotated[int, Field(ge=-MAX_DIMENSION, le=MAX_DIMENSION)]], Field(max_length=16, fail_fast=True)
    ]
    data: list[Any] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class Output(JsonObject):
    """An output that the client asks for."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class Body(JsonObject):
    """The JSON part."""

    id: str | None = None
    inputs: Annotated[list[Tensor], Field(max_length=MOST_TENSORS, fail_fast=True)]
    outputs: Annotated[list[Output], Field(max_length=MOST_TENSORS, fail_fast=True)] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferRequest(NamedTuple):
    """A checked request."""

    images: np.ndarray
    """uint8 `[N, H, W, 3]`, at least one pixel."""
    outputs: dict[str, bool]
    """Name -> whether it is answered as bytes."""
    request_id: str | None


def read_request(body: bytes, header_length: str | None) -> InferRequest:
    """Parse a body.

    Args:
        body: JSON, with or without bytes behind it.
        header_length: the header HEADER_LENGTH, if it was sent.

    HTTPException 413 when the JSON part is too large, 422 when a number outside of `data` is out of range, 400 for
    other mistakes.
    """
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 12):
            raise HTTPException(400, f"{HEADER_LENGTH}: not a number")
        length = int(header_length)
        if length > len(body):
            raise HTTPException(400, f"{HEADER_LENGTH} is {length}, and the body has {len(body)} bytes")
    if length > MAX_JSON_BYTES:
        raise HTTPException(413, f"the JSON part is above {MAX_JSON_BYTES / 2**20:g} MiB; send tensors as binary data")
    rest, numbers = _without_numbers(body[:length])
    check_parts(rest, "the request, beside whole numbers in `data`,")
    try:
        request = Body.model_validate(from_json(rest))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        status = 422 if first["type"] in OUT_OF_RANGE else 400
        raise HTTPException(status, " ".join(f"{where}: {first['msg']}".split())) from None
    except ValueError as error:
        status = 422 if "number out of range" in str(error) else 400
        raise HTTPException(status, " ".join(f"the request: Invalid JSON: {error}".split())) from None
    return InferRequest(_images(request, numbers, memoryview(body)[length:]), _outputs(request), request.id)


def _without_numbers(text: bytes) -> tuple[bytes, bytes | None]:
    """JSON whose first list in a `data`, if it is one of numbers, is _MARK; and that list, unread."""
    if before := _BEFORE_NUMBERS.search(text):
        start = before.end()
        # A list of numbers holds neither; what follows it in an object is the next name, or the object's end.
        ends = [end for end in (text.find(b'"', start), text.find(b"}", start)) if end >= 0]
        numbers = text[start : min(ends, default=start)].rstrip().removesuffix(b",").rstrip()
        if numbers.endswith(b"]") and numbers.count(b"[") == numbers.count(b"]"):
            return b"".join([text[:start], _json(_MARK), text[start + len(numbers) :]]), numbers
    return text, None


def _images(request: Body, numbers: bytes | None, behind: memoryview) -> np.ndarray:
    if [tensor.name for tensor in request.inputs] != ["images"]:
        raise HTTPException(400, "inputs: send exactly one, named 'images'")
    tensor = request.inputs[0]
    if numbers is not None and tensor.data != _MARK:
        raise HTTPException(
            400, "images: `data` is given twice, or also elsewhere; only the input's own may hold numbers"
        )
    shape = tensor.shape
    if tensor.datatype != "UINT8" or len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        raise HTTPException(400, f"images: must be UINT8 [N, H, W, 3]; this is {tensor.datatype[:20]} {shape}")
    size = math.prod(shape)
    binary_size = tensor.parameters.get("binary_data_size")
    if binary_size is None:
        if behind:
            raise HTTPException(400, f"images: {len(behind)} bytes lie behind the JSON without a binary_data_size")
        if tensor.data is None:
            raise HTTPException(400, "images: neither data nor binary_data_size is given")
        try:
            text = _json(tensor.data) if numbers is None else numbers
            return _read_numbers(text, size).reshape(shape)
        except (TypeError, ValueError):
            raise HTTPException(400, f"images: data must be {size} whole numbers from 0 to 255") from None
    if binary_size != size or len(behind) != size:
        raise HTTPException(
            400, f"images: {shape} is {size} bytes; binary_data_size says {binary_size!r:.20}, {len(behind)} came"
        )
    if tensor.data and numbers != b"[]":
        raise HTTPException(400, "images: both data and binary_data_size are given; send the numbers once")
    return np.frombuffer(behind, np.uint8).reshape(shape)


def _read_numbers(text: bytes, size: int) -> np.ndarray:
    """A JSON list of so many numbers, flat or in nested lists of equal lengths, as uint8 `[size]`.

    TypeError or ValueError for any other text.
    """
    brackets = text.translate(None, b"0123456789 \t\r\n")
    depth = len(brackets) - len(brackets.lstrip(b"["))
    if text.count(b",") != size - 1 or depth > MOST_DEPTH or brackets.translate(None, b"[,]"):
        raise ValueError
    for _ in range(depth):  # all innermost lists, being equal, become numbers
        end = brackets.index(b"]")
        brackets = brackets.replace(brackets[brackets.rindex(b"[", 0, end) : end + 1], b"")
    if brackets:
        raise ValueError
    numbers = bytearray()
    start = opened = 0
    while start < len(text):
        end = text.find(b",", start + PIECE)
        piece = text[start : end if end >= 0 else len(text)]
        left_open = opened + piece.count(b"[") - piece.count(b"]")
        values = from_json(b"[" * opened + piece + b"]" * left_open)
        for _ in range(depth - 1):
            values = list(chain.from_iterable(values))
        numbers += bytes(values)
        start, opened = start + len(piece) + 1, left_open
    if len(numbers) != size:
        raise ValueError
    return np.frombuffer(numbers, np.uint8)


def _outputs(request: Body) -> dict[str, bool]:
    every = request.parameters.get("binary_data_output") is True
    if not request.outputs:
        return {"classes": every, "confidence": every}
    outputs: dict[str, bool] = {}
    for output in request.outputs:
        if output.name not in ("classes", "confidence"):
            raise HTTPException(400, f"outputs: unknown output {output.name[:40]!r}; choose 'classes' or 'confidence'")
        if output.parameters.get("classification"):
            raise HTTPException(400, "outputs: the classification extension does not apply to class maps")
        outputs[output.name] = output.parameters.get("binary_data", every) is True
    return outputs


def written(
    asked: InferRequest, model: str, version: str, tensors: Mapping[str, np.ndarray]
) -> tuple[bytes, list[bytes]]:
    """The answer's JSON part, and the bytes behind it in order; no bytes when all tensors are in the JSON."""
    outputs = []
    binary = []
    for name, as_bytes in asked.outputs.items():
        tensor = tensors[name]
        output: dict[str, Any] = {"name": name, "datatype": "UINT8", "shape": list(tensor.shape)}
        if as_bytes:
            binary.append(tensor.tobytes())
            outputs.append(_json(output | {"parameters": {"binary_data_size": tensor.nbytes}}))
        else:
            outputs.append(_with_list(output, "data", _number_texts(tensor)))
    head = {"model_name": model, "model_version": version}
    if asked.request_id is not None:
        head["id"] = asked.request_id
    return _with_list(head, "outputs", outputs), binary


def _json(content: Mapping[str, Any] | Sequence[Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _with_list(content: Mapping[str, Any], name: str, items: Sequence[bytes]) -> bytes:
    """An object as JSON, with one more field: a list of what is JSON already."""
    return b"".join([_json(content)[:-1], b',"', name.encode(), b'":[', b",".join(items), b"]}"])


def _number_texts(tensor: np.ndarray) -> list[bytes]:
    """The numbers of uint8 `[...]`, PIECE in each text, separated by commas."""
    flat = tensor.ravel()
    return [",".join(map(str, flat[start : start + PIECE].tolist())).encode() for start in range(0, flat.size, PIECE)]
