"""What the page's buttons do, apart from how it looks: uploads in, HTML and files out."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component
from gradio.processing_utils import save_bytes_to_cache

from semseg_app.errors import UserError
from semseg_app.serve.answers.body import packed, render
from semseg_app.serve.answers.formats import FORMATS, Answered
from semseg_app.serve.answers.options import Options
from semseg_app.serve.answers.schemas import engine_info, summarize
from semseg_app.serve.demo import html
from semseg_app.serve.demo.batch import segment_many
from semseg_app.serve.demo.flags import FlagFolder
from semseg_app.serve.demo.uploads import read_upload, upload_path
from semseg_app.serve.demo.urls import fetch_photo
from semseg_app.serve.demo.words import in_plain_words
from semseg_app.serve.http.requester import requester
from semseg_app.serve.scheduling.admission import DeadlineExceeded, Overloaded, Requester
from semseg_app.serve.scheduling.decoding import Source, decode
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.segmentation import Segmentation

log = logging.getLogger("semseg.serve")

Upload = dict[str, Any]
"""A file as Gradio's clients send it: `path` of the upload, and `orig_name`."""

REFUSALS = (UserError, Overloaded, DeadlineExceeded)
"""Whose messages may be shown; others could name paths of the server."""
NO_PHOTO = "Drop a photo, take one or pick an example. Its classes appear here."


class Calls:
    """The page's endpoints.

    Args:
        models: the served models.
        max_bytes: largest photo, encoded.
        flags: where flagged photos go; None = visitors cannot flag.
    """

    def __init__(self, models: Models, max_bytes: int, flags: FlagFolder | None):
        self.models = models
        self.max_bytes = max_bytes
        self.flags = flags
        self.photo: Component
        """The page's input, set when the page is built; it knows the folder of uploads."""

    def segment(self, upload: Upload | None, model: str | None, request: gr.Request) -> tuple[Any, ...]:
        """-> stage, legend, the JSON answer."""
        if upload is None:
            return html.notice(NO_PHOTO), "", None
        try:
            segmentation = self._segmented(upload, model, request)
            engine = segmentation.engine
        except Exception as error:
            # In the stage, not as a passing gr.Error: the last photo's result must not stand beside this photo.
            said = in_plain_words(error)
            return html.notice(said), "", {"error": str(error) if isinstance(error, REFUSALS) else said}
        summary = summarize(engine, segmentation, model)
        return html.stage(segmentation, engine.labels, summary), html.legend(summary), summary.model_dump()

    def compare(self, upload: Upload | None, request: gr.Request) -> str:
        """-> all models' answers about one photo, as cards."""
        if upload is None:
            return html.notice("Pick a photo first.")
        try:
            source: Source = read_upload(upload, self.photo)
            compared = []
            for name in self.models.names():
                served = self.models.get(name)
                segmentation = served.segment_blocking(source, _visitor(request))
                source, engine = segmentation.image, segmentation.engine  # decoded once, for all models
                facts = served.describe(engine)
                compared.append(html.Compared(name, segmentation, engine.labels, engine_info(engine), facts))
        except Exception as error:
            return html.notice(in_plain_words(error))
        return html.comparison(compared)

    def download(self, upload: Upload | None, model: str | None, form: str, request: gr.Request) -> str:
        """-> a file with the API's answer in that format, a name in FORMATS."""
        try:
            if form not in FORMATS:
                raise UserError(f"unknown format; choose one of {', '.join(FORMATS)}")
            if upload is None:
                raise UserError("pick a photo first")
            segmentation = self._segmented(upload, model, request)
            engine = segmentation.engine
            served = self.models.get(model).name
            content = render(form, segmentation, engine, served, Options(format=form))
            height, width = segmentation.classes.shape
            body, _, _ = packed(form, [Answered("", height, width, content)])
        except Exception as error:
            raise gr.Error(in_plain_words(error), print_exception=False) from None
        path: str = save_bytes_to_cache(body, FORMATS[form].file, cache_dir=self.photo.GRADIO_CACHE)
        return path

    def many(
        self,
        uploads: Sequence[Upload] | None,
        model: str | None,
        request: gr.Request,
        progress: Callable[..., Any] = gr.Progress(),  # noqa: B008  Gradio looks for it here
    ) -> tuple[str, dict[str, Any]]:
        """-> a table with the largest classes of each photo, and a ZIP of masks, overlays and shares."""
        try:
            files = [
                (str(upload.get("orig_name") or "photo"), upload_path(upload, self.photo)) for upload in uploads or []
            ]
            if not files:
                raise UserError("pick photos, a folder or a ZIP first")
            archive = Path(save_bytes_to_cache(b"", "results.zip", cache_dir=self.photo.GRADIO_CACHE))
            archive = archive.with_name(f"results-{np.random.default_rng().integers(2**63):x}.zip")
            batch = segment_many(
                files,
                self.models.get(model),
                archive,
                max_bytes=self.max_bytes,
                who=_visitor(request),
                progress=lambda done, total: progress((done, total), unit="photos"),
            )
        except Exception as error:
            return html.message(in_plain_words(error), good=False), gr.update(visible=False)
        return html.table(batch.rows, batch.failed), gr.update(value=str(batch.archive), visible=True)

    def fetch(self, url: str) -> str:
        """-> a photo from the web, as an upload."""
        try:
            data = fetch_photo(url, self.max_bytes)
            decode(data, self.models.config.max_pixels)
        except Exception as error:
            raise gr.Error(in_plain_words(error), print_exception=False) from None
        path: str = save_bytes_to_cache(data, "fetched", cache_dir=self.photo.GRADIO_CACHE)
        return path

    def flag(self, upload: Upload | None, model: str | None, drawing: str, request: gr.Request) -> str:
        """Keep the photo for the next round of training, with its mask if the visitor corrected it; -> a message."""
        assert self.flags is not None
        try:
            if upload is None:
                raise UserError("pick a photo first")
            data = read_upload(upload, self.photo)
            image = decode(data, self.models.config.max_pixels)
            if not drawing:
                kept = self.flags.flag(data, image)
                return html.message(f"Thank you. The photo is kept as {kept}, for the next round of training.", True)
            segmentation = self.models.get(model).segment_blocking(image, _visitor(request))
            labels = segmentation.engine.labels
            kept = self.flags.correct(data, image, segmentation.classes, labels, drawing)
        except OSError:  # its text would name paths of the server
            log.exception("a flagged photo could not be written")
            return html.message("Not kept: the server could not write the photo; its log says why.", good=False)
        except Exception as error:
            return html.message(f"Not kept. {in_plain_words(error)}", good=False)
        return html.message(f"Thank you. The photo and its corrected mask are kept as {kept}.", good=True)

    def _segmented(self, upload: Upload, model: str | None, request: gr.Request) -> Segmentation:
        return self.models.get(model).segment_blocking(read_upload(upload, self.photo), _visitor(request))


def _visitor(request: gr.Request) -> Requester:
    assert request.request is not None  # None only where Gradio calls a function itself, to cache examples
    return requester("page", request.request.scope)
