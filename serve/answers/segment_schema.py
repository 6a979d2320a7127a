"""What OpenAPI says about /v1/segment: bodies, answers, examples."""

from typing import Any

from semseg_app.serve.answers.formats import GEOJSON, JPEG, JSON, PNG, RAW, ZIP
from semseg_app.serve.answers.schemas import Outlines, Problem, RunLengthMasks, Summary

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
            **{media_type: {"schema": BINARY} for media_type in IMAGE_TYPES},
        },
    },
}

_CLASS = {"index": 1, "name": "road", "color": "#804080", "area": 6, "box": [0, 1, 3, 2]}
_EXAMPLES = {
    "json": {
        "model": "street",
        "engine": {"kind": "onnxruntime", "device": "cpu", "precision": "int8"},
        "width": 4,
        "height": 3,
        "confidence": 0.93,
        "classes": [_CLASS | {"share": 0.5, "confidence": 0.95}],
        "unknown": 0.5,
        "latency_ms": {"decode": 1.2, "inference": 17.4},
    },
    "rle": {
        "model": "street",
        "width": 4,
        "height": 3,
        "classes": [_CLASS | {"segmentation": {"size": [3, 4], "counts": "121203"}}],
    },
    "polygons": {
        "model": "street",
        "width": 4,
        "height": 3,
        "classes": [_CLASS | {"polygons": [{"exterior": [[0, 1], [3, 1], [3, 3], [0, 3]], "holes": []}]}],
    },
}
_GEOJSON_EXAMPLE = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "properties": {"index": 1, "name": "road", "color": "#804080", "model": "street"},
            "geometry": {"type": "Polygon", "coordinates": [[[0, 1], [3, 1], [3, 3], [0, 3], [0, 1]]]},
        }
    ],
}
_FEATURE_COLLECTION = {
    "type": "object",
    "required": ["type", "features"],
    "properties": {"type": {"const": "FeatureCollection"}, "features": {"type": "array", "items": {"type": "object"}}},
}

COMMON_PROBLEMS = {
    400: "The image or the body is damaged.",
    401: "The server wants an API key.",
    404: "No model of that name is served.",
    408: "The body arrived too slowly.",
    413: "Too many bytes or too many pixels.",
    415: "Not an image that can be read.",
    422: "A parameter is wrong, or the form has no image.",
    429: "Too many requests are waiting, or your key sent too many; `Retry-After` says when to come back.",
    504: "The answer was not there in time.",
}
"""Of every route that takes an image."""


def problems(described: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Statuses with their meaning -> what FastAPI's `responses` takes."""
    return {status: {"model": Problem, "description": what} for status, what in described.items()}


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Summary | RunLengthMasks | Outlines | dict[str, Any],
        "description": "By `format` or `Accept`. Several images: JSON is `{images: [...]}`, all but GeoJSON a ZIP.",
        "content": {
            PNG: {"schema": BINARY},
            JPEG: {"schema": BINARY},
            JSON: {"examples": {name: {"value": value} for name, value in _EXAMPLES.items()}},
            GEOJSON: {"schema": _FEATURE_COLLECTION, "example": _GEOJSON_EXAMPLE},
            RAW: {"schema": BINARY},
            ZIP: {"schema": BINARY},
        },
        "headers": {
            "X-Image-Height": {"schema": {"type": "integer"}, "description": "Of raw classes."},
            "X-Image-Width": {"schema": {"type": "integer"}, "description": "Of raw classes."},
        },
    },
    **problems(COMMON_PROBLEMS | {406: "`Accept` takes nothing that this route answers."}),
}
