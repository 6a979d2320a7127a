"""/v1/jobs: images beyond the limit of one request."""

import importlib.util
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from semseg_app.serve.answers.formats import JSON, PNG
from semseg_app.serve.answers.options import UNKNOWN, MaskOptions
from semseg_app.serve.answers.schemas import ClassInfo, EngineInfo, class_infos, engine_info
from semseg_app.serve.answers.segment_schema import BINARY, COMMON_PROBLEMS, problems
from semseg_app.serve.http.negotiation import choose
from semseg_app.serve.http.query import options_checked
from semseg_app.serve.http.requester import requester
from semseg_app.serve.http.uploads import RAW, content_type_of, is_raw
from semseg_app.serve.jobs import Job, Jobs, State
from semseg_app.serve.routes.direct import DirectRoute
from semseg_app.serve.scheduling.registry import Models

MEDIA_TYPES = ("image/jpeg", "image/png", "image/tiff", "image/webp", "application/octet-stream")
"""What the documentation offers; `is_raw` takes more."""
RESULTS = {"png": PNG, "json": JSON}
"""What `format` or `Accept` may ask for."""


class JobStatus(BaseModel):
    """How far a job is."""

    id: str
    status: State
    model: str
    width: int
    height: int
    progress: float
    """Share of the rows that are done, 0 to 1."""
    error: str | None = None
    expires_in_s: int | None = None
    """Once it is finished: seconds for which the result is kept."""


class JobClass(ClassInfo):
    """One class that was found."""

    area: int
    share: float


class JobResult(BaseModel):
    """The JSON answer of a job."""

    model: str
    engine: EngineInfo
    width: int
    height: int
    confidence: float
    classes: list[JobClass]
    unknown: float


def router(models: Models, jobs: Jobs) -> APIRouter:
    """The routes."""
    checked = options_checked("model, classes and threshold go with POST /v1/jobs")
    routes = APIRouter(prefix="/v1/jobs", tags=["Large images"], dependencies=[checked])
    gone = problems(
        {
            404: "There is no such job: it was never there, has expired, or is another key's.",
            422: "An option that this address does not take.",
        }
    )
    config = jobs.config

    async def submit(request: Request, options: Annotated[MaskOptions, Query()]) -> Response:
        """Hand in a large image."""
        return await _submit(models, jobs, request, options)

    routes.add_api_route(
        "",
        submit,
        methods=["POST"],
        route_class_override=DirectRoute,
        status_code=202,
        response_model=JobStatus,
        responses=problems(COMMON_PROBLEMS | {501: "The server cannot read large images."}),
        openapi_extra={
            "requestBody": {"required": True, "content": {media: {"schema": BINARY} for media in MEDIA_TYPES}}
        },
        description=f"Hand in one image as the raw body: up to {config.max_job_bytes / 2**20:g} MiB "
        f"and {config.max_job_pixels / 1e6:g} million pixels. `classes`, `threshold` and `model` are as for "
        "/v1/segment. The answer's `Location` says how far it is, and with /result behind it gives the mask.",
    )

    @routes.get("/{job_id}", responses=gone)
    async def status(request: Request, job_id: str) -> JobStatus:
        """How far it is."""
        return _status(_job(jobs, job_id, request))

    @routes.get(
        "/{job_id}/result",
        response_class=Response,
        responses={200: {"model": JobResult, "content": {PNG: {"schema": BINARY}}}}
        | gone
        | problems(
            {
                406: "`Accept` takes neither.",
                409: "It is not done yet.",
                422: "It failed, and this says why; or `format` is wrong.",
            }
        ),
    )
    async def result(
        request: Request, job_id: str, format: Annotated[Literal["png", "json"] | None, Query()] = None
    ) -> Response:
        """The mask as an indexed PNG, or its summary as JSON, by `format` or `Accept`."""
        media_type = RESULTS[format] if format else choose(request.headers.get("accept"), tuple(RESULTS.values()))
        if media_type is None:
            raise HTTPException(406, f"this route answers {PNG} or {JSON}; ask for one of them in Accept")
        job = _job(jobs, job_id, request)
        if not job.is_finished:
            raise HTTPException(409, f"the job is {job.state}; ask again later", {"Retry-After": "1"})
        if job.result is None:
            raise HTTPException(422, job.error)
        if media_type == JSON:
            return Response(_summary(job).model_dump_json(), media_type=JSON, headers={"Vary": "Accept"})
        return FileResponse(job.mask, media_type=PNG, headers={"Vary": "Accept"})

    @routes.delete("/{job_id}", status_code=204, responses=gone)
    async def drop(request: Request, job_id: str) -> None:
        """Break it off, or delete its result."""
        jobs.drop(_job(jobs, job_id, request))

    return routes


async def _submit(models: Models, jobs: Jobs, request: Request, options: MaskOptions) -> Response:
    if importlib.util.find_spec("pyvips") is None:
        raise HTTPException(501, "this server cannot read large images; it was installed without the extra 'large'")
    content_type = content_type_of(request)
    if not is_raw(content_type):
        raise HTTPException(
            415, f"content type {content_type or 'missing'}: send the image as the body, as {' or '.join(RAW)}"
        )
    served = models.get(options.model)
    options.selected(served.engine.labels)
    who = requester("job", request.scope)
    job = await jobs.submit(served, options, request.scope.get("api_key"), who, request.stream())
    location = f"{request.scope.get('root_path', '')}/v1/jobs/{job.id}"
    return Response(_status(job).model_dump_json(), 202, {"Location": location}, JSON)


def _job(jobs: Jobs, job_id: str, request: Request) -> Job:
    job = jobs.get(job_id, request.scope.get("api_key"))
    if job is None:
        raise HTTPException(404, "there is no such job, or its result has expired")
    return job


def _status(job: Job) -> JobStatus:
    left = None if job.expires_at is None else max(0, round(job.expires_at - time.monotonic()))
    return JobStatus(
        id=job.id,
        status=job.state,
        model=job.served.name,
        width=job.width,
        height=job.height,
        progress=round(job.progress, 4),
        error=job.error or None,
        expires_in_s=left,
    )


def _summary(job: Job) -> JobResult:
    assert job.result is not None
    assert job.engine is not None
    assert job.result.mean_confidence is not None
    pixels = job.result.pixels
    size = job.height * job.width
    infos = class_infos(job.engine.labels)
    found = [
        JobClass(**info.model_dump(), area=int(pixels[info.index]), share=round(int(pixels[info.index]) / size, 6))
        for info in infos
        if pixels[info.index]
    ]
    unknown: Any = int(pixels[UNKNOWN]) if len(infos) <= UNKNOWN else 0
    return JobResult(
        model=job.served.name,
        engine=engine_info(job.engine),
        width=job.width,
        height=job.height,
        confidence=round(job.result.mean_confidence, 4),
        classes=sorted(found, key=lambda entry: -entry.area),
        unknown=round(unknown / size, 6),
    )
