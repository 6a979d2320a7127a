"""What OpenAPI says about /v1/segment: bodies, answers, examples. The formats come from FORMATS."""

from collections.abc import Mapping
from typing import Any, Union

from semseg_app.serve.answers.formats import FORMATS, JSON, ZIP
from semseg_app.serve.answers.schemas import Problem

BINARY = {"type": "string", "format": "binary"}
IMAGE_TYPES = tuple(f"image/{kind}" for kind in ("jpeg", "png", "webp", "bmp", "tiff"))

REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": BINARY, "minItems": 1, "maxItems": 16}},
                    "required": ["image"],
                    "additionalProperties": False,
                },
            },
            **{media_type: {"schema": BINARY} for media_type in (*IMAGE_TYPES, "application/octet-stream")},
        },
    },
}

COMMON_PROBLEMS = {
    400: "The image or the body is damaged.",
    401: "Missing or unknown API key.",
    404: "No model of that name is served.",
    408: "The body arrived too slowly.",
    413: "Too many bytes or too many pixels.",
    415: "Not an image that can be read.",
    422: "A parameter is wrong, or the form has no image.",
    429: "Too many requests are waiting, or your key sent too many; `Retry-After` says when to send again.",
    503: "The server is stopping; send the request again.",
    504: "The answer took longer than the server's time limit.",
}
"""Errors that every route which takes an image may answer."""


def problems(described: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Statuses with their meaning -> what FastAPI's `responses` takes."""
    return {status: {"model": Problem, "description": what} for status, what in described.items()}


def segment_answers() -> dict[int | str, dict[str, Any]]:
    """The `responses` of /v1/segment, made from FORMATS."""
    content: dict[str, dict[str, Any]] = {}
    for name, row in FORMATS.items():
        # FastAPI adds the schema of JSON itself, from "model".
        described = content.setdefault(row.media_type, {} if row.media_type == JSON else {"schema": BINARY})
        if row.schema is not None and row.media_type != JSON:
            described["schema"] = {"$ref": f"#/components/schemas/{row.schema.__name__}"}
        if row.example is not None:
            described.setdefault("examples", {})[name] = {"value": row.example}
    schemas = [row.schema for row in FORMATS.values() if row.schema is not None]
    listed = " ".join(f"`{name}`: {row.answer}." for name, row in FORMATS.items())
    return {
        200: {
            "model": Union[(*schemas, dict[str, Any])],
            "description": "The format follows `format` or `Accept`. Several images: JSON is `{images: [...]}`, "
            f"GeoJSON is one collection, the others a ZIP. {listed}",
            "content": content | {ZIP: {"schema": BINARY}},
            "headers": {
                "X-Image-Height": {"schema": {"type": "integer"}, "description": "Height of the raw classes."},
                "X-Image-Width": {"schema": {"type": "integer"}, "description": "Width of the raw classes."},
            },
        },
        **problems(COMMON_PROBLEMS | {406: "`Accept` names no media type that this route can answer with."}),
    }
