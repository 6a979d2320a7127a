"""The HTTP API: an image in, a class mask or a summary out. See docs/serve.md for the calls."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from semseg_app import __version__
from semseg_app.errors import UserError
from semseg_app.inference.decode import ImageTooLarge, UnsupportedImage
from semseg_app.inference.engines.base import Engine
from semseg_app.serve.answers import schemas as answers
from semseg_app.serve.answers.options import BadOption
from semseg_app.serve.http.access import OPEN, Access
from semseg_app.serve.http.load_shedding import too_busy
from semseg_app.serve.http.middleware import problem
from semseg_app.serve.http.stack import middleware_stack
from semseg_app.serve.jobs import JOB_LIMITS, JobLimits, Jobs
from semseg_app.serve.protocols import huggingface, kserve, label_studio
from semseg_app.serve.routes import jobs as job_routes
from semseg_app.serve.routes import segment
from semseg_app.serve.scheduling.registry import (
    MAX_PIXELS,
    DeadlineExceeded,
    Limits,
    Models,
    Overloaded,
    ServedModel,
    UnknownModel,
)

MAX_BYTES = 32 * 2**20


def create_app(
    models: Models | Engine,
    examples: Sequence[Path] = (),
    *,
    demo: bool = True,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    access: Access = OPEN,
    job_limits: JobLimits = JOB_LIMITS,
    demo_urls: bool = False,
    flag_to: Path | None = None,
) -> FastAPI:
    """The application around some models, or around one engine.

    Args:
        models: what segments; each engine is called by one thread at a time.
        examples: photos that the web page offers.
        demo: mount the web page at `/`; without it `/` leads to the API's docs.
        max_bytes: largest request body.
        max_pixels: of an engine: largest image, width x height, checked on its header before it is decoded.
        access: who may ask, and from where; as it is, everyone who reaches the port.
        job_limits: of /v1/jobs.
        demo_urls: let the web page's visitors name the address of a photo, which the server fetches.
        flag_to: a dataset folder that takes the photos which the page's visitors flag.
    """
    if not isinstance(models, Models):
        models = Models([ServedModel(models)], Limits(max_pixels))

    jobs = Jobs(models, job_limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await models.start()
        await jobs.start()
        yield
        await jobs.stop()
        await models.stop()

    segment_routes = segment.router(models)
    (segment_route,) = (route for route in segment_routes.routes if isinstance(route, APIRoute))
    elsewhere = {"/v1/jobs": job_limits.max_bytes}
    app = FastAPI(
        title="semseg",
        summary=f"Semantic segmentation with {', '.join(models.names())}",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
        middleware=middleware_stack(models, access, segment_route, max_bytes, elsewhere),
    )
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(UserError, _user_problem)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    app.add_exception_handler(Overloaded, _overloaded)
    app.add_exception_handler(DeadlineExceeded, _too_late)

    app.include_router(segment_routes)
    app.include_router(job_routes.router(models, jobs))
    app.include_router(huggingface.router(models))
    app.include_router(kserve.router(models))
    app.include_router(label_studio.router(models, access.label_studio._replace(max_bytes=max_bytes)))

    @app.get("/v1/models")
    def offered() -> answers.Models:
        """What is served: names, classes with their colors, and the engine that really runs."""
        return answers.Models(models=[answers.model_info(name, models.get(name).engine) for name in models.names()])

    @app.get("/health/live")
    async def live() -> answers.Live:
        """The process answers."""
        return answers.Live(status="live")

    @app.get("/health/ready", responses={503: {"model": answers.Problem}})
    async def ready() -> answers.Ready:
        """Every size and batch went through every engine once, and came back right."""
        if reason := models.why_not_ready():
            raise HTTPException(503, reason)
        served = models.get()
        return answers.Ready(status="ready", model=served.name, engine=answers.engine_info(served.engine))

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Requests, seconds a stage, queues and batches, in Prometheus' text format."""
        return models.metrics.exposition()

    # The page is mounted at "/" and would answer whatever the routes above do not, in HTML.
    async def not_here(request: Request) -> Response:
        here = request.url.path.removeprefix(request.scope.get("root_path", ""))
        described = app.openapi()["paths"].items()
        allowed = {method for path, methods in described if compile_path(path)[0].match(here) for method in methods}
        if allowed:
            methods = ", ".join(sorted(allowed)).upper()
            return problem(405, f"this address takes {methods}; /docs shows how", {"Allow": methods})
        return problem(404, "no such address; /docs lists them")

    everything = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    for prefix in ("/v1", "/v2", "/hf", "/label-studio", "/health"):
        app.add_route(prefix + "/{rest:path}", not_here, methods=everything, include_in_schema=False)

    if demo:
        from semseg_app.serve.demo.page import DemoOptions, mount_page

        mount_page(app, models, DemoOptions(examples, demo_urls, flag_to), max_bytes)
    else:
        app.add_route("/", lambda request: RedirectResponse("docs"), include_in_schema=False)
    return app


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, error.detail, dict(error.headers or {}))


async def _user_problem(request: Request, error: Exception) -> Response:
    if isinstance(error, UnknownModel):
        return problem(404, str(error))
    if isinstance(error, ImageTooLarge):
        return problem(413, str(error))
    if isinstance(error, BadOption):
        return problem(422, str(error))
    return problem(415 if isinstance(error, UnsupportedImage) else 400, str(error))


async def _bad_parameter(request: Request, error: Exception) -> Response:
    """What FastAPI found wrong with a query, as one line."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "extra_forbidden":
        return problem(422, f"there is no parameter {name!r}; /docs lists them")
    return problem(422, f"{name}: {first['msg']}".replace("\n", " "))


async def _overloaded(request: Request, error: Exception) -> Response:
    assert isinstance(error, Overloaded)
    return too_busy(error.retry_after_s)


async def _too_late(request: Request, error: Exception) -> Response:
    return problem(504, str(error))
