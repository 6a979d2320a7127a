"""Requests and answers of KServe v2: JSON, with tensors inside it or, in Triton's extension, as bytes behind it."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_JSON_BYTES = 18 * 2**20
"""Limit on the JSON part: a photo of 1024 x 1024 pixels in nested lists, as `json.dumps` writes it. Parsed, it may take
thirty times that in memory (a list for each pair of brackets), and holds up all other threads meanwhile, so only one is
parsed at a time; larger tensors come as bytes."""
MAX_DIMENSION = 2**31 - 1
"""Products of shapes within it can be printed; JSON could hold numbers of thousands of digits, which Python refuses to
print."""

OUT_OF_RANGE = ("greater_than_equal", "less_than_equal", "int_parsing_size")
"""Pydantic's types of error for numbers that are too large or too small."""


class Tensor(BaseModel):
    """An input: numbers in `data`, or `binary_data_size` bytes behind the JSON."""

    name: str
    datatype: str
    shape: Annotated[list[Annotated[int, Field(ge=-MAX_DIMENSION, le=MAX_DIMENSION)]], Field(max_length=16)]
    data: list[Any] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class Output(BaseModel):
    """An output that the client asks for."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class Body(BaseModel):
    """The JSON part."""

    id: str | None = None
    inputs: list[Tensor]
    outputs: list[Output] | None = None
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

    HTTPException 413 when the JSON part is too large, 422 when a number is out of range, 400 for other mistakes.
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
    try:
        # Not `model_validate_json`, which first makes a tree of its own, as large as Python's.
        request = Body.model_validate(from_json(body[:length]))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        status = 422 if first["type"] in OUT_OF_RANGE else 400
        raise HTTPException(status, " ".join(f"{where}: {first['msg']}".split())) from None
    except ValueError as error:
        status = 422 if "number out of range" in str(error) else 400
        raise HTTPException(status, " ".join(f"the request: Invalid JSON: {error}".split())) from None
    return InferRequest(_images(request, memoryview(body)[length:]), _outputs(request), request.id)


def _images(request: Body, behind: memoryview) -> np.ndarray:
    if [tensor.name for tensor in request.inputs] != ["images"]:
        raise HTTPException(400, "inputs: send exactly one, named 'images'")
    tensor = request.inputs[0]
    shape = tensor.shape
    if tensor.datatype != "UINT8" or len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        raise HTTPException(400, f"images: must be UINT8 [N, H, W, 3]; this is {tensor.datatype[:20]} {shape}")
    size = math.prod(shape)
    binary_size = tensor.parameters.get("binary_data_size")
    if binary_size is None:
        if behind:
            raise HTTPException(400, f"images: {len(behind)} bytes lie behind the JSON without a binary_data_size")
        return _numbers(tensor.data, size).reshape(shape)
    if binary_size != size or len(behind) != size:
        raise HTTPException(
            400, f"images: {shape} is {size} bytes; binary_data_size says {binary_size!r:.20}, {len(behind)} came"
        )
    return np.frombuffer(behind, np.uint8).reshape(shape)


def _numbers(data: list[Any] | None, size: int) -> np.ndarray:
    """`data`, nested or flat, as uint8 `[size]`."""
    if data is None:
        raise HTTPException(400, "images: neither data nor binary_data_size is given")
    try:
        numbers = _flat(data, size)
    except (TypeError, ValueError, LookupError):
        numbers = b""
    if len(numbers) != size:
        raise HTTPException(400, f"images: data must be {size} whole numbers from 0 to 255")
    return np.frombuffer(numbers, np.uint8)


def _flat(values: list[Any], most: int) -> bytes:
    """Numbers in nested lists of equal lengths, at most so many. For others TypeError, ValueError or LookupError.

    Not `numpy.array`, which takes eight bytes for each number, and lets no other thread run before it is done.
    """
    if len(values) > most:
        raise ValueError
    if not isinstance(values[0], list):
        return bytes(values)
    rows = [_flat(row, most) for row in values]
    if len(set(map(len, rows))) > 1:
        raise ValueError
    return b"".join(rows)


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
) -> tuple[dict[str, Any], list[bytes]]:
    """The answer's JSON part, and the bytes behind it in order; no bytes when all tensors are in the JSON."""
    outputs = []
    binary = []
    for name, as_bytes in asked.outputs.items():
        tensor = tensors[name]
        output: dict[str, Any] = {"name": name, "datatype": "UINT8", "shape": list(tensor.shape)}
        if as_bytes:
            binary.append(tensor.tobytes())
            output["parameters"] = {"binary_data_size": tensor.nbytes}
        else:
            output["data"] = tensor.ravel().tolist()
        outputs.append(output)
    head = {"model_name": model, "model_version": version, "outputs": outputs}
    if asked.request_id is not None:
        head["id"] = asked.request_id
    return head, binary
