"""POST /v1/segment: images in, masks out, in the form that the caller asks for."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from semseg_app.serve.answers.body import packed, render
from semseg_app.serve.answers.formats import FORMATS, Answered, by_media_type
from semseg_app.serve.answers.options import Options
from semseg_app.serve.answers.segment_schema import REQUEST, segment_answers
from semseg_app.serve.http.negotiation import choose
from semseg_app.serve.http.requester import requester
from semseg_app.serve.http.uploads import read_uploads
from semseg_app.serve.routes.direct import DirectRoute
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.segmentation import Segmentation


def router(models: Models) -> APIRouter:
    """The route."""
    routes = APIRouter(route_class=DirectRoute)

    @routes.post("/v1/segment", responses=segment_answers(), openapi_extra=REQUEST, response_class=Response)
    async def segment(request: Request, options: Annotated[Options, Query()]) -> Response:
        """Segment one image or several, sent as multipart fields `image`; or one as the raw body."""
        form = options.format or _accepted(request.headers.get("accept"))
        served = models.get(options.model)
        options.check(form, served.engine.labels)
        uploads = await read_uploads(request)
        who = requester("api", request.scope)

        def answered(index: int, segmented: Segmentation) -> Answered:
            segmented = _kept(options, segmented)
            content = render(form, segmented, segmented.engine, served.name, options)
            height, width = segmented.classes.shape
            return Answered(uploads[index].name, height, width, content)

        def answer(segmented: Segmentation) -> tuple[bytes, str, dict[str, str]]:
            return packed(form, [answered(0, segmented)])

        resize, quick = options.resize(), FORMATS[form].quick
        confidence = FORMATS[form].confidence or options.needs_confidence
        if len(uploads) == 1:
            body, media_type, headers = await served.segment(
                uploads[0].data, answer, who, resize=resize, quick=quick, confidence=confidence
            )
        else:
            images, names = [upload.data for upload in uploads], [upload.name for upload in uploads]
            several = await served.segment_all(
                images, answered, who, names=names, resize=resize, quick=quick, confidence=confidence
            )
            body, media_type, headers = await asyncio.to_thread(packed, form, several)
        return Response(body, media_type=media_type, headers=headers | {"Vary": "Accept"})

    return routes


def _accepted(accept: str | None) -> str:
    """The kind of answer that an Accept header asks for. HTTPException 406 when it takes none."""
    formats = by_media_type()
    media_type = choose(accept, tuple(formats))
    if media_type is None:
        raise HTTPException(406, f"this route answers {' or '.join(formats)}; ask for one of them in Accept")
    return formats[media_type]


def _kept(options: Options, segmented: Segmentation) -> Segmentation:
    """The same image with only the pixels that were asked for; the others are unknown."""
    classes = options.filtered(segmented.classes, segmented.confidence_map, segmented.engine.labels)
    return segmented._replace(classes=classes)
