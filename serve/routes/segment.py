"""POST /v1/segment: images in, masks out, in the form that the caller asks for."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Annotated, TypeVar

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Prediction
from semseg_app.serve.answers.body import packed, render
from semseg_app.serve.answers.formats import FORMATS, Answered, by_media_type
from semseg_app.serve.answers.options import Options
from semseg_app.serve.answers.segment_schema import REQUEST, segment_answers
from semseg_app.serve.http.negotiation import choose
from semseg_app.serve.http.uploads import Upload, read_uploads
from semseg_app.serve.routes.direct import DirectRoute
from semseg_app.serve.scheduling.admission import Place
from semseg_app.serve.scheduling.registry import Models, Run, ServedModel
from semseg_app.serve.scheduling.segmenter import Segmentation

T = TypeVar("T")
AT_ONCE = 8
"""Images of one request that are worked on together, as far as there are places."""


def router(models: Models) -> APIRouter:
    """The route."""
    routes = APIRouter(route_class=DirectRoute)

    @routes.post("/v1/segment", responses=segment_answers(), openapi_extra=REQUEST, response_class=Response)
    async def segment(request: Request, options: Annotated[Options, Query()]) -> Response:
        """Segment one image or several, sent as multipart fields `image` (or `file`); or one as the raw body."""
        form = options.format or _accepted(request.headers.get("accept"))
        served = models.get(options.model)
        options.check(served.engine.labels)
        with served.place() as place:
            uploads = await read_uploads(request)
            if len(uploads) == 1:
                answer = await _segment(served, place, uploads[0], form, options, lambda one: packed(form, [one]))
        if len(uploads) > 1:
            answered = await _segment_all(served, uploads, form, options)
            answer = await asyncio.to_thread(packed, form, answered)
        body, media_type, headers = answer
        return Response(body, media_type=media_type, headers=headers | {"Vary": "Accept"})

    return routes


def _accepted(accept: str | None) -> str:
    """The kind of answer that an Accept header asks for. HTTPException 406 when it takes none."""
    formats = by_media_type()
    media_type = choose(accept, tuple(formats))
    if media_type is None:
        raise HTTPException(406, f"this route answers {' or '.join(formats)}; ask for one of them in Accept")
    return formats[media_type]


async def _segment(
    served: ServedModel, place: Place, upload: Upload, form: str, options: Options, finish: Callable[[Answered], T]
) -> T:
    """One image, with the place that it was given. `finish` runs in the thread that encodes."""

    def encode(image: np.ndarray, run: Run, decode_ms: float) -> T:
        prediction: Prediction = options.filtered(run.prediction, run.engine.labels)
        segmentation = Segmentation(image, *prediction, decode_ms, run.infer_ms)
        content = render(form, segmentation, run.engine, served.name, options)
        height, width = image.shape[:2]
        return finish(Answered(upload.name, height, width, content))

    return await served.answer(place, upload.data, encode, options.resize(), quick=FORMATS[form].quick)


async def _segment_all(served: ServedModel, uploads: list[Upload], form: str, options: Options) -> list[Answered]:
    """Several images, each in a place of its own, in their order. The first that fails ends it, named."""
    answered: list[Answered | None] = [None] * len(uploads)
    waiting = iter(enumerate(uploads))

    async def work(place: Place) -> None:
        while True:
            with place:
                number, upload = next(waiting, (-1, None))
                if upload is None:
                    return
                try:
                    answered[number] = await _segment(served, place, upload, form, options, lambda one: one)
                except UserError as error:
                    raise type(error)(f"image {number + 1} ({upload.name or 'unnamed'}): {error}") from error
            place = served.place()  # the one just left: nobody came in between

    try:
        async with asyncio.TaskGroup() as group:
            for place in _places(served, min(len(uploads), AT_ONCE)):
                group.create_task(work(place))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [one for one in answered if one is not None]


def _places(served: ServedModel, most: int) -> Iterator[Place]:
    """As many as there are, `most` at most; Overloaded when there is none."""
    yield served.place()
    for _ in range(min(most - 1, served.free_places)):
        yield served.place()
