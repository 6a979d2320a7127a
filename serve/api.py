"""The HTTP API: an image in, a class mask or a summary out. See docs/serve.md for the calls."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from semseg_app import __version__
from semseg_app.errors import UserError
from semseg_app.inference.decode import ImageTooLarge, UnsupportedImage
from semseg_app.inference.engines import Engine
from semseg_app.masks import indexed_png
from semseg_app.serve.answers import Live, Models, Problem, Ready, Summary, engine_info, model_info, summarise
from semseg_app.serve.middleware import BodyLimit, RequestId, problem
from semseg_app.serve.negotiation import choose
from semseg_app.serve.segmenter import Segmenter

log = logging.getLogger("semseg.serve")

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 32_000_000
IMAGES_IN_MEMORY = 4
"""How many uploads are decoded at any moment, the one in the engine among them. Others wait as they came, encoded."""

PNG, JSON = "image/png", "application/json"
FIELDS = ("image", "file")

_BINARY = {"type": "string", "format": "binary"}
_REQUEST: dict[str, Any] = {
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
            406: "`Accept` takes neither image/png nor application/json.",
            413: "Too many bytes or too many pixels.",
            415: "Not an image that can be read.",
            422: "The multipart body has no image.",
        }.items()
    },
}


def create_app(
    engine: Engine,
    examples: Sequence[Path] = (),
    *,
    demo: bool = True,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> FastAPI:
    """The application around one engine.

    Args:
        engine: what segments; called by one thread at a time.
        examples: photos that the web page offers.
        demo: mount the web page at `/`; without it `/` leads to the API's docs.
        max_bytes: largest request body.
        max_pixels: largest image, width x height, checked on its header before it is decoded.
    """
    segmenter = Segmenter(engine, max_pixels)
    slots = anyio.CapacityLimiter(IMAGES_IN_MEMORY)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Beside the event loop, so that /health/live answers while a slow engine starts.
        app.state.warm_up = asyncio.create_task(anyio.to_thread.run_sync(segmenter.warm_up))
        app.state.warm_up.add_done_callback(_log_failure)
        yield
        await asyncio.wait([app.state.warm_up])

    app = FastAPI(
        title="semseg",
        summary=f"Semantic segmentation with {engine.name}",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, max_bytes=max_bytes)
    app.add_middleware(RequestId)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(UserError, _user_problem)

    @app.post("/v1/segment", responses=_ANSWERS, openapi_extra=_REQUEST, response_class=Response)
    async def segment(request: Request) -> Response:
        """Segment one image, sent as the multipart field `image` (or `file`) or as the raw body."""
        answer_as = choose(request.headers.get("accept"), (PNG, JSON))
        if answer_as is None:
            raise HTTPException(406, f"this route answers {PNG} or {JSON}; ask for one of them in Accept")
        data = await _uploaded_image(request)

        def work() -> Response:
            segmentation = segmenter.segment(data)
            if answer_as == JSON:
                return JSONResponse(summarise(engine, segmentation).model_dump())
            return Response(indexed_png(segmentation.classes, engine.labels.palette), media_type=PNG)

        response = await anyio.to_thread.run_sync(work, limiter=slots)
        response.headers["Vary"] = "Accept"
        return response

    @app.get("/v1/models")
    def models() -> Models:
        """What is served: names, classes with their colours, and the engine that really runs."""
        return Models(models=[model_info(engine)])

    @app.get("/health/live")
    async def live() -> Live:
        """The process answers."""
        return Live(status="live")

    @app.get("/health/ready", responses={503: {"model": Problem}})
    async def ready(request: Request) -> Ready:
        """A warm-up image went through the engine and came back right."""
        warm_up: asyncio.Task[None] = request.app.state.warm_up
        if not warm_up.done():
            raise HTTPException(503, "warming up")
        if warm_up.exception():
            raise HTTPException(503, "the warm-up failed; the server's log says why")
        return Ready(status="ready", model=engine.name, engine=engine_info(engine))

    # The page is mounted at "/" and would answer whatever the routes above do not, in HTML.
    async def not_here(request: Request) -> Response:
        if request.url.path.removeprefix(request.scope.get("root_path", "")) == "/v1/segment":
            return problem(405, "POST an image to this address; /docs shows how", {"Allow": "POST"})
        return problem(404, "no such address; /docs lists them")

    everything = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    for prefix in ("/v1", "/health"):
        app.add_route(prefix + "/{rest:path}", not_here, methods=everything, include_in_schema=False)

    if demo:
        from semseg_app.serve.demo import mount_page

        mount_page(app, segmenter, examples, max_bytes)
    else:
        app.add_route("/", lambda request: RedirectResponse("docs"), include_in_schema=False)
    return app


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


def _log_failure(warm_up: "asyncio.Task[None]") -> None:
    if error := warm_up.exception():
        log.error("the warm-up failed", exc_info=error)


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, error.detail, dict(error.headers or {}))


async def _user_problem(request: Request, error: Exception) -> Response:
    if isinstance(error, ImageTooLarge):
        return problem(413, str(error))
    return problem(415 if isinstance(error, UnsupportedImage) else 400, str(error))
