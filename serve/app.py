"""The HTTP API: an image in, a class mask or a summary out. See docs/serve.md for the calls."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from semseg_app import __version__
from semseg_app.inference.engines.base import Engine
from semseg_app.serve.answers import schemas as answers
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.http.docs_page import add_docs
from semseg_app.serve.http.errors import NO_ADDRESS, answer_errors, problem
from semseg_app.serve.http.query import options_checked
from semseg_app.serve.http.stack import middleware_stack
from semseg_app.serve.jobs import Jobs
from semseg_app.serve.protocols import huggingface, kserve, label_studio
from semseg_app.serve.protocols.label_studio_images import ImageSource
from semseg_app.serve.routes import jobs as job_routes
from semseg_app.serve.routes import segment
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.served_model import ServedModel


def models_of(served: Models | Engine, config: ServeConfig | None) -> Models:
    """`served` itself, or one engine as the only model. ValueError when `config` is given beside `Models`."""
    if not isinstance(served, Models):
        return Models([ServedModel(served)], config)
    if config is not None:
        raise ValueError("Models have a config; give it to them")
    return served


def create_app(served: Models | Engine, config: ServeConfig | None = None) -> FastAPI:
    """The application around some models, which know their config, or around one engine.

    Args:
        served: what segments; each engine is called by one thread at a time.
        config: how one engine is served; None = the defaults.
    """
    models = models_of(served, config)
    config = models.config
    jobs = Jobs(models)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await models.start()
        await jobs.start()
        yield
        await jobs.stop()
        await models.stop()

    segment_routes = segment.router(models)
    (segment_route,) = (route for route in segment_routes.routes if isinstance(route, APIRoute))
    app = FastAPI(
        title="semseg",
        summary=f"Semantic segmentation with {', '.join(models.names())}",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # PlainSlashes takes them off
        middleware=middleware_stack(models, segment_route),
    )
    answer_errors(app)
    source = ImageSource(config.label_studio_url, config.label_studio_token, config.max_bytes)

    add_docs(app)
    app.include_router(segment_routes)
    app.include_router(job_routes.router(models, jobs))
    app.include_router(huggingface.router(models))
    app.include_router(kserve.router(models))
    app.include_router(label_studio.router(models, source))

    @app.get(
        "/v1/models",
        dependencies=[options_checked("model goes with /v1/segment and POST /v1/jobs")],
        responses={422: {"model": answers.Problem}},
    )
    def offered() -> answers.Models:
        """What is served: names, classes with their colors, and the engine that really runs."""
        return answers.Models(models=[answers.model_info(name, models.get(name).engine) for name in models.names()])

    @app.get("/health/live")
    async def live() -> answers.Live:
        """The process answers."""
        return answers.Live(status="live")

    @app.get("/health/ready", responses={503: {"model": answers.Problem}})
    async def ready() -> answers.Ready:
        """Every engine has answered right at every size and batch that it warms up with."""
        if reason := models.why_not_ready():
            raise HTTPException(503, reason)
        served = models.get()
        return answers.Ready(status="ready", model=served.name, engine=answers.engine_info(served.engine))

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Requests, seconds per stage, queues and batches, in Prometheus' text format."""
        return models.metrics.exposition()

    # The page is mounted at "/" and would answer whatever the routes above do not, in HTML.
    async def not_here(request: Request) -> Response:
        here = request.url.path.removeprefix(request.scope.get("root_path", ""))
        described = app.openapi()["paths"].items()
        allowed = {method for path, methods in described if compile_path(path)[0].match(here) for method in methods}
        if allowed:
            methods = ", ".join(sorted(allowed)).upper()
            return problem(405, f"this address takes {methods}; /docs shows how", {"Allow": methods})
        return problem(404, NO_ADDRESS)

    everything = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    for prefix in ("/v1", "/v2", "/hf", "/label-studio", "/health"):
        app.add_route(prefix + "/{rest:path}", not_here, methods=everything, include_in_schema=False)

    if config.demo:
        from semseg_app.serve.demo.page import mount_page

        mount_page(app, models)
    else:
        app.add_route("/", lambda request: RedirectResponse("docs"), include_in_schema=False)
    return app
