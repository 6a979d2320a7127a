"""POST /v1/segment: an image in, a class mask or a summary out."""

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from semseg_app.masks import indexed_png
from semseg_app.serve.answers import Problem, Summary, summarise
from semseg_app.serve.models import Models
from semseg_app.serve.negotiation import choose
from semseg_app.serve.segmenter import Segmentation

PNG, JSON = "image/png", "application/json"
FIELDS = ("image", "file")

_BINARY = {"type": "string", "format": "binary"}
_REQUEST: dict[str, Any] = {
    "parameters": [
        {
            "name": "model",
            "in": "query",
            "description": "One of those that /v1/models names; the first unless told.",
            "schema": {"type": "string"},
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"image": _BINARY}, "required": ["image"]},
            },
            **{f"image/{kind}": {"schema": _BINARY} for kind in ("jpeg", "png", "webp", "bmp", "tiff")},
        },
    },
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Summary,
        "description": "The mask as an indexed PNG (pixel value = class index), or the summary as JSON, by `Accept`.",
        "content": {PNG: {"schema": _BINARY}},
    },
    **{
        status: {"model": Problem, "description": what}
        for status, what in {
            400: "The image or the multipart body is damaged.",
            404: "No model of that name is served.",
            406: "`Accept` takes neither image/png nor application/json.",
            413: "Too many bytes or too many pixels.",
            415: "Not an image that can be read.",
            422: "The multipart body has no image.",
            429: "Too many requests are waiting; `Retry-After` says when to come back.",
            504: "The answer was not there in time.",
        }.items()
    },
}


def router(models: Models) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post("/v1/segment", responses=_ANSWERS, openapi_extra=_REQUEST, response_class=Response)
    async def segment(request: Request) -> Response:
        """Segment one image, sent as the multipart field `image` (or `file`) or as the raw body."""
        answer_as = choose(request.headers.get("accept"), (PNG, JSON))
        if answer_as is None:
            raise HTTPException(406, f"this route answers {PNG} or {JSON}; ask for one of them in Accept")
        served = models.get(request.query_params.get("model"))
        with served.place() as place:
            data = await _uploaded_image(request)
            start = time.perf_counter()
            image = await place.decode(data)
            decode_ms = (time.perf_counter() - start) * 1000
            run = await served.run(image)

            def encode() -> Response:
                if answer_as == JSON:
                    segmentation = Segmentation(image, *run.prediction, decode_ms, run.infer_ms)
                    return JSONResponse(summarise(run.engine, segmentation, served.name).model_dump())
                return Response(indexed_png(run.prediction.classes, run.engine.labels.palette), media_type=PNG)

            response = await place.encode(encode)
        response.headers["Vary"] = "Accept"
        return response

    return routes


async def _uploaded_image(request: Request) -> bytes:
    """The encoded image in a request's body, multipart or raw. HTTPException when there is none."""
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type.startswith("image/"):
        return await request.body()
    if content_type != "multipart/form-data":
        raise HTTPException(
            415, f"content type {content_type or 'missing'}: send multipart/form-data with a field 'image', or image/*"
        )
    async with request.form(max_files=1, max_fields=8) as form:
        for name in FIELDS:
            part = form.get(name)
            if isinstance(part, UploadFile):
                return await part.read()
            if part is not None:
                raise HTTPException(422, f"the field '{name}' holds text, not a file; with curl: -F {name}=@photo.jpg")
    raise HTTPException(422, "no image: send it in the multipart field 'image'; with curl: -F image=@photo.jpg")
