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
from semseg_app.inference.decode import decode_image
from semseg_app.inference.engines.base import Engine
from semseg_app.serve.answers.body import packed, render
from semseg_app.serve.answers.formats import FORMATS, Answered
from semseg_app.serve.answers.options import Options
from semseg_app.serve.answers.schemas import engine_info, summarize
from semseg_app.serve.demo import html
from semseg_app.serve.demo.batch import segment_many
from semseg_app.serve.demo.flags import FlagFolder
from semseg_app.serve.demo.uploads import read_upload, upload_path
from semseg_app.serve.demo.urls import fetch_photo
from semseg_app.serve.scheduling.registry import Models, Overloaded
from semseg_app.serve.scheduling.segmenter import Segmentation, Segmenter

log = logging.getLogger("semseg.serve")

Upload = dict[str, Any]
"""A file as Gradio's clients send it: `path` of the upload, and `orig_name`."""

NO_PHOTO = "Drop a photo, take one or pick an example. The result appears here."


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

    def segment(self, upload: Upload | None, model: str | None) -> tuple[Any, ...]:
        """-> stage, legend, the two sides of the slider, the JSON answer."""
        if upload is None:
            return html.notice(NO_PHOTO), "", None, None
        try:
            segmentation, engine = self._segmented(upload, model)
        except (UserError, Overloaded) as error:
            # In the stage, not as a passing gr.Error: the last photo's result must not stand beside this photo.
            return html.notice(f"This photo cannot be used: {error}."), "", None, {"error": str(error)}
        summary = summarize(engine, segmentation, model)
        sides = (html.display_photo(segmentation), html.display_colors(segmentation, engine.labels))
        return html.stage(segmentation, engine.labels, summary), html.legend(summary), sides, summary.model_dump()

    def compare(self, upload: Upload | None) -> str:
        """-> all models' answers about one photo, as cards."""
        if upload is None:
            return html.notice("Pick a photo first.")
        try:
            image = decode_image(read_upload(upload, self.photo), self.models.limits.max_pixels)
            compared = []
            for name in self.models.names():
                run = self.models.get(name).run_blocking(image)
                segmentation = Segmentation(image, *run.prediction, 0.0, run.infer_ms)
                compared.append(html.Compared(name, segmentation, run.engine.labels, engine_info(run.engine)))
        except (UserError, Overloaded) as error:
            return html.notice(f"This photo cannot be used: {error}.")
        return html.comparison(compared)

    def download(self, upload: Upload | None, model: str | None, form: str) -> str:
        """-> a file with the API's answer in that format, a name in FORMATS."""
        try:
            if form not in FORMATS:
                raise UserError(f"unknown format; choose one of {', '.join(FORMATS)}")
            if upload is None:
                raise UserError("pick a photo first")
            segmentation, engine = self._segmented(upload, model)
            served = self.models.get(model).name
            content = render(form, segmentation, engine, served, Options(format=form))
            height, width = segmentation.classes.shape
            body, _, _ = packed(form, [Answered("", height, width, content)])
        except (UserError, Overloaded) as error:
            raise gr.Error(f"Nothing to download: {error}.", print_exception=False) from None
        path: str = save_bytes_to_cache(body, FORMATS[form].file, cache_dir=self.photo.GRADIO_CACHE)
        return path

    def many(
        self,
        uploads: Sequence[Upload] | None,
        folder: Sequence[Upload] | None,
        model: str | None,
        progress: Callable[..., Any] = gr.Progress(),  # noqa: B008  Gradio looks for it here
    ) -> tuple[str, dict[str, Any]]:
        """-> a table with the largest classes of each photo, and a ZIP of masks, overlays and shares."""
        try:
            files = [
                (str(upload.get("orig_name") or "photo"), upload_path(upload, self.photo))
                for upload in [*(uploads or []), *(folder or [])]
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
                max_pixels=self.models.limits.max_pixels,
                progress=lambda done, total: progress((done, total), unit="photos"),
            )
        except (UserError, Overloaded) as error:
            return html.message(f"{error}.", good=False), gr.update(visible=False)
        return html.table(batch.rows, batch.failed), gr.update(value=str(batch.archive), visible=True)

    def fetch(self, url: str) -> str:
        """-> a photo from the web, as an upload."""
        try:
            data = fetch_photo(url, self.max_bytes)
            decode_image(data, self.models.limits.max_pixels)
        except UserError as error:
            raise gr.Error(f"{error}.", print_exception=False) from None
        path: str = save_bytes_to_cache(data, "fetched", cache_dir=self.photo.GRADIO_CACHE)
        return path

    def flag(self, upload: Upload | None, model: str | None, drawing: str) -> str:
        """Keep the photo for the next round of training, with its mask if the visitor corrected it; -> a message."""
        assert self.flags is not None
        try:
            if upload is None:
                raise UserError("pick a photo first")
            data = read_upload(upload, self.photo)
            image = decode_image(data, self.models.limits.max_pixels)
            if not drawing:
                kept = self.flags.flag(data, image)
                return html.message(f"Thank you. The photo is kept as {kept}, for the next round of training.", True)
            run = self.models.get(model).run_blocking(image)
            kept = self.flags.correct(data, image, run.prediction.classes, drawing)
        except (UserError, Overloaded) as error:
            return html.message(f"Not kept: {error}.", good=False)
        except OSError:  # its text would name paths of the server
            log.exception("a flagged photo could not be written")
            return html.message("Not kept: the server could not write the photo; its log says why.", good=False)
        return html.message(f"Thank you. The photo and its corrected mask are kept as {kept}.", good=True)

    def _segmented(self, upload: Upload, model: str | None) -> tuple[Segmentation, Engine]:
        segmenter = Segmenter(self.models, model)
        return segmenter.segment(read_upload(upload, self.photo)), segmenter.engine
