"""Every request's way in: the whole middleware stack as one list."""

from collections.abc import Mapping

from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

from semseg_app.serve.http.access import Access, RootPath, SecurityHeaders
from semseg_app.serve.http.api_keys import RequireApiKey
from semseg_app.serve.http.disconnect import CancelOnDisconnect, CloseWhenStopping
from semseg_app.serve.http.load_shedding import ShedLoad
from semseg_app.serve.http.logs import AccessLog
from semseg_app.serve.http.middleware import BodyLimit, RequestId
from semseg_app.serve.http.uploads import BodyTimeout
from semseg_app.serve.metrics import Measure
from semseg_app.serve.protocols.kserve_tensors import HEADER_LENGTH
from semseg_app.serve.scheduling.registry import Models

_SENT = ["Authorization", "Content-Type", "Inference-Header-Content-Length", "X-API-Key", "X-Request-ID"]
_READ = [HEADER_LENGTH, "Location", "Retry-After", "X-Image-Height", "X-Image-Width", "X-Request-ID"]


def middleware_stack(
    models: Models, access: Access, segment_route: APIRoute, max_bytes: int, elsewhere: Mapping[str, int]
) -> list[Middleware]:
    """Outermost first: a request passes them from top to bottom, its answer from bottom to top.

    Args:
        models: what is served.
        access: who may ask, and how.
        segment_route: the route that load shedding watches.
        max_bytes: largest body.
        elsewhere: path -> its own largest body.
    """
    return [
        # Outermost: it makes a scope of its own, and Measure reads there which route answered.
        *([Middleware(RootPath, path=access.root_path)] if access.root_path else []),
        Middleware(Measure, metrics=models.metrics),
        Middleware(CloseWhenStopping, models=models),
        Middleware(AccessLog),
        Middleware(SecurityHeaders),
        *(
            [
                Middleware(
                    CORSMiddleware,
                    allow_origins=access.cors_origins,
                    allow_methods=["GET", "POST", "DELETE"],
                    allow_headers=_SENT,
                    expose_headers=_READ,
                )
            ]
            if access.cors_origins
            else []
        ),
        Middleware(RequestId),
        *([Middleware(RequireApiKey, keys=access.keys)] if access.keys is not None else []),
        Middleware(ShedLoad, models=models, route=segment_route),
        Middleware(BodyLimit, max_bytes=max_bytes, elsewhere=elsewhere),
        Middleware(BodyTimeout, seconds=access.body_timeout_s),
        Middleware(CancelOnDisconnect),
    ]
