"""Image segmentation with the protocol of Hugging Face's Inference Endpoints.

Client: `huggingface_hub.InferenceClient(model=URL).image_segmentation`.

Request: the image's bytes, or `{"inputs": base64, "parameters": {...}}`. Answer: a list of
`{"label", "score", "mask"}`, one per class; the mask is a black and white PNG in base64
(https://huggingface.co/docs/inference-providers/tasks/image-segmentation).
"""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from semseg_app.masks import gray_png
from semseg_app.masks.regions import regions
from semseg_app.serve.answers.segment_schema import BINARY, COMMON_PROBLEMS, IMAGE_TYPES, problems
from semseg_app.serve.http.query import options_checked
from semseg_app.serve.http.requester import requester
from semseg_app.serve.http.uploads import content_type_of
from semseg_app.serve.protocols.json_body import JsonObject, decode_base64, json_body, parse_json
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.segmentation import Segmentation


class Parameters(JsonObject):
    """The task's parameters."""

    model_config = ConfigDict(extra="forbid")

    subtask: Literal["semantic"] | None = None
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Leave out classes whose score is lower."""
    mask_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Leave out pixels whose confidence is lower."""
    overlap_mask_area_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Without effect: the masks of a semantic segmentation do not overlap."""


class ImageAndParameters(JsonObject):
    """The JSON body, which clients send when they set parameters."""

    model_config = ConfigDict(extra="forbid")

    inputs: str
    parameters: Parameters = Parameters()
    options: dict[str, Any] = Field(default_factory=dict)
    """Without effect: `wait_for_model` and `use_cache` are for Hugging Face's own machines."""


class Segment(BaseModel):
    """One class of the image."""

    label: str
    score: float
    """Mean confidence over the mask, 0 to 1."""
    mask: str
    """Black and white PNG of the image's size, in base64."""


def router(models: Models) -> APIRouter:
    """The routes: /hf for the first model, /hf/NAME for any."""
    checked = options_checked(
        'parameters go into the body, {"inputs": "<base64>", "parameters": {"threshold": 0.5}}, and the model\'s name '
        "into the path, /hf/NAME; all other options are those of /v1/segment",
        ours=Parameters.model_fields,
    )
    routes = APIRouter(tags=["Hugging Face image segmentation"], dependencies=[checked])
    body = json_body(ImageAndParameters, {"inputs": "iVBORw0KGgo=", "parameters": {"threshold": 0.5}})
    body["requestBody"]["content"] |= {media_type: {"schema": BINARY} for media_type in IMAGE_TYPES}
    described: dict[str, Any] = {
        "openapi_extra": body,
        "response_model": list[Segment],
        "responses": problems(COMMON_PROBLEMS),
    }

    @routes.post("/hf", **described)
    async def first(request: Request) -> JSONResponse:
        """Segment an image with the first model."""
        return await _answer(models, None, request)

    @routes.post("/hf/{name}", **described)
    async def named(request: Request, name: str) -> JSONResponse:
        """Segment an image with the model of that name."""
        return await _answer(models, name, request)

    return routes


async def _answer(models: Models, name: str | None, request: Request) -> JSONResponse:
    served = models.get(name)
    data, parameters = await _read(request)

    def answer(segmented: Segmentation) -> JSONResponse:
        return JSONResponse(_segments(segmented, parameters))

    return await served.segment(data, answer, requester("huggingface", request.scope))


async def _read(request: Request) -> tuple[bytes, Parameters]:
    """The encoded image and the parameters of a request."""
    if content_type_of(request).startswith("multipart/"):
        raise HTTPException(415, "send the image itself as the body, not a form; with curl: --data-binary @photo.jpg")
    body = await request.body()
    # No image begins so: curl sends JSON under the content type of forms.
    if content_type_of(request) != "application/json" and not body[:64].lstrip().startswith(b"{"):
        return body, Parameters()
    sent = await parse_json(body, ImageAndParameters)
    if sent.inputs.startswith(("http://", "https://")):
        raise HTTPException(422, "inputs: an address, which is not fetched; send the image's bytes in base64")
    try:
        return decode_base64(sent.inputs), sent.parameters
    except ValueError:
        raise HTTPException(422, "inputs: not valid base64; send the image's bytes in base64") from None


def _segments(segmented: Segmentation, parameters: Parameters) -> list[dict[str, Any]]:
    """The classes that occur, the largest first."""
    classes, confidence, labels = segmented.classes, segmented.confidence, segmented.engine.labels
    certain = confidence >= np.ceil(parameters.mask_threshold * 255)
    segments = []
    for region in sorted(regions(classes), key=lambda region: -region.area):
        mask = (classes == region.class_index) & certain
        score = float(confidence[mask].mean()) / 255 if mask.any() else 0.0
        if mask.any() and score >= parameters.threshold:
            png = gray_png(mask.astype(np.uint8) * 255)
            text = base64.b64encode(png).decode("ascii")
            segments.append({"label": labels.classes[region.class_index], "score": round(score, 6), "mask": text})
    return segments
