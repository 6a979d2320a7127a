"""Every request's way in: the whole middleware stack as one list."""

from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

from semseg_app.serve.config import ServeConfig
from semseg_app.serve.http.bodies import AnswerTimeout, BodyLimit, BodyTimeout, RefuseCompressed
from semseg_app.serve.http.disconnect import CancelOnDisconnect, CloseWhenStopping, UnfinishedWhenStopped
from semseg_app.serve.http.head import HeadAsGet
from semseg_app.serve.http.headers import (
    OneLineErrors,
    PlainSlashes,
    RequestId,
    RootPath,
    SecurityHeaders,
    SlashAfterRoot,
)
from semseg_app.serve.http.load_shedding import ShedLoad
from semseg_app.serve.http.logs import AccessLog
from semseg_app.serve.http.require_key import RequireApiKey
from semseg_app.serve.http.upload_quota import UploadQuota
from semseg_app.serve.metrics import Measure
from semseg_app.serve.protocols.kserve_tensors import HEADER_LENGTH
from semseg_app.serve.scheduling.registry import Models

JOBS = "/v1/jobs"
MOST_JOB_BODY_S = 3600.0
"""Time for the body of a job, which goes to a file."""
MOST_PHOTOS_KEPT = 32
"""Largest photos that one visitor of the page may have on the server's disk."""
_READ = [HEADER_LENGTH, "Location", "Retry-After", "X-Image-Height", "X-Image-Width", "X-Request-ID"]


def middleware_stack(models: Models, segment_route: APIRoute) -> list[Middleware]:
    """Outermost first: a request passes them from top to bottom, its answer from bottom to top.

    Args:
        models: the served models, and how they are served.
        segment_route: the route that load shedding watches.
    """
    config = models.config
    return [
        # Outermost: they make scopes of their own, and Measure reads there which route answered.
        *([Middleware(RootPath, path=config.root_path)] if config.root_path else []),
        Middleware(PlainSlashes),
        Middleware(Measure, metrics=models.metrics),
        Middleware(CloseWhenStopping, models=models),
        Middleware(AccessLog),
        Middleware(HeadAsGet),
        Middleware(SecurityHeaders),
        *([_cross_origin(config)] if config.cors_origins else []),
        Middleware(RequestId),
        *([Middleware(SlashAfterRoot)] if config.root_path else []),
        Middleware(UnfinishedWhenStopped, models=models),
        Middleware(AnswerTimeout, seconds=config.body_timeout_s, metrics=models.metrics),
        *([Middleware(OneLineErrors)] if config.demo else []),
        *([Middleware(RequireApiKey, keys=config.keys)] if config.keys is not None else []),
        *([Middleware(UploadQuota, max_bytes=config.max_bytes, photos=MOST_PHOTOS_KEPT)] if config.demo else []),
        Middleware(ShedLoad, models=models, route=segment_route),
        Middleware(RefuseCompressed),
        Middleware(
            BodyLimit,
            max_bytes=config.max_bytes,
            together=config.max_bytes * config.max_requests,
            client_share=config.client_share,
            elsewhere={JOBS: config.max_job_bytes},
        ),
        Middleware(BodyTimeout, seconds=config.body_timeout_s, elsewhere={JOBS: MOST_JOB_BODY_S}),
        Middleware(CancelOnDisconnect),
    ]


def _cross_origin(config: ServeConfig) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=config.cors_origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],  # upload widgets and tracers of sites add their own
        allow_private_network=True,  # a public site that calls a server at home: the owner has named it
        expose_headers=_READ,
    )
