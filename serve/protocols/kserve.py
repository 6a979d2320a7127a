"""KServe's Open Inference Protocol, version 2, with Triton's binary tensors: `tritonclient.http` works unchanged.

Input `images`, UINT8 [N, H, W, 3]; outputs `classes` and `confidence`, UINT8 [N, H, W]: the names that a Triton model
repository made by `semseg export` has, so a client moves to Triton by changing its address
(https://github.com/kserve/open-inference-protocol, and triton's extension_binary_data.md).
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from semseg_app import __version__
from semseg_app.serve.answers.segment_schema import COMMON_PROBLEMS, problems
from semseg_app.serve.http.query import options_checked
from semseg_app.serve.http.requester import requester
from semseg_app.serve.http.uploads import MAX_IMAGES
from semseg_app.serve.protocols.json_body import json_body
from semseg_app.serve.protocols.kserve_tensors import HEADER_LENGTH, Body, InferRequest, read_request, written
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.segmentation import Segmentation

VERSION = "1"
"""Version of every model: a reload replaces the model, and the version stays."""
_EXAMPLE = {
    "inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [255, 0, 0, 0, 255, 0]}],
    "outputs": [{"name": "classes"}],
}


def router(models: Models) -> APIRouter:
    """The routes under /v2."""
    checked = options_checked("the options in a query are those of /v1/segment", ours=())
    routes = APIRouter(prefix="/v2", tags=["KServe v2"], dependencies=[checked])

    @routes.get("")
    def server() -> dict[str, Any]:
        """Name, version and extensions of this server."""
        return {"name": "semseg", "version": __version__, "extensions": ["binary_tensor_data"]}

    @routes.get("/health/live")
    def live() -> dict[str, bool]:
        """The process answers."""
        return {"live": True}

    @routes.get("/health/ready", responses=problems({400: "Warming up, or the warm-up failed."}))
    def ready() -> dict[str, bool]:
        """Every model has passed its warm-up."""
        if reason := models.why_not_ready():
            raise HTTPException(400, reason)
        return {"ready": True}

    async def model_ready(name: str) -> dict[str, bool]:
        """The model has passed its warm-up."""
        models.get(name)
        return ready()

    async def metadata(name: str) -> dict[str, Any]:
        """The model's tensors."""
        return _metadata(models.get(name).name, models.get(name).engine.kind)

    async def infer(name: str, request: Request) -> Response:
        """Segment a batch of decoded images. With `Inference-Header-Content-Length`, tensors are binary."""
        return await _infer(models, name, request)

    unknown = problems({404: "No model of that name or version is served."})
    for prefix in ("/models/{name}", "/models/{name}/versions/" + VERSION):
        routes.add_api_route(f"{prefix}/ready", model_ready, responses=unknown | problems({400: "Warming up."}))
        routes.add_api_route(prefix, metadata, responses=unknown)
        routes.add_api_route(
            f"{prefix}/infer",
            infer,
            methods=["POST"],
            responses=problems({status: what for status, what in COMMON_PROBLEMS.items() if status != 415})
            | problems({415: "A compressed body."}),
            openapi_extra=json_body(Body, _EXAMPLE),
        )
    return routes


def _metadata(name: str, platform: str) -> dict[str, Any]:
    return {
        "name": name,
        "versions": [VERSION],
        "platform": platform,
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
        "outputs": [
            {"name": output, "datatype": "UINT8", "shape": [-1, -1, -1]} for output in ("classes", "confidence")
        ],
    }


async def _infer(models: Models, name: str, request: Request) -> Response:
    served = models.get(name)
    length = request.headers.get(HEADER_LENGTH)
    body = await request.body()
    asked = await asyncio.to_thread(read_request, body, length)
    count, height, width = asked.images.shape[:3]
    if count > MAX_IMAGES:
        raise HTTPException(413, f"{count} images in one batch, above the limit of {MAX_IMAGES}")
    if count * height * width > models.config.max_pixels:
        limit = models.config.max_pixels / 1e6
        raise HTTPException(413, f"{count} x {height} x {width} pixels, above the limit of {limit:g} million")
    who = requester("kserve", request.scope)
    segmented = await served.segment_all(
        list(asked.images), lambda index, image: image, who, quick=True, confidence="confidence" in asked.outputs
    )
    return await asyncio.to_thread(_written, asked, served.name, segmented)


def _written(asked: InferRequest, name: str, segmented: Sequence[Segmentation]) -> Response:
    """The answer about a batch."""
    tensors = {}
    if "classes" in asked.outputs:
        tensors["classes"] = np.stack([image.classes for image in segmented])
    if "confidence" in asked.outputs:
        tensors["confidence"] = np.stack([image.confidence for image in segmented])
    head, binary = written(asked, name, VERSION, tensors)
    if not binary:
        return Response(head, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(head))}
    return Response(b"".join([head, *binary]), media_type="application/octet-stream", headers=headers)
