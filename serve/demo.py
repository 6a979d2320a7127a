"""The web page: a photo in; classes and confidence over it, a legend with shares, and the call that does the same.

The page's layers are blended by the browser, so moving the opacity slider costs the server nothing.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Read when Gradio is imported: the page sends nothing to anyone.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from fastapi import FastAPI

from semseg_app.errors import UserError
from semseg_app.serve.answers import engine_info, summarise
from semseg_app.serve.demo_html import heading, legend, notice, stage
from semseg_app.serve.demo_uploads import accept_uploads_only, read_upload
from semseg_app.serve.segmenter import Segmenter

WAITING_VISITORS = 64
"""How many photos may wait for the engine before the page says that it is busy."""

KEEP_UPLOADS = (300, 900)
"""Gradio puts uploads into files: every 5 minutes those older than 15 are deleted, and all when the server stops."""

_OPACITY = 60
_SET_OPACITY = "(percent) => { document.getElementById('result').style.setProperty('--layer-opacity', percent / 100); }"
_SET_LAYER = "(name) => { document.getElementById('result').dataset.layer = name.toLowerCase(); }"
# The address that the visitor sees, behind whatever proxy, is known to the browser alone.
_SHOW_CALL = """() => {
  const url = location.origin + location.pathname.replace(/[/]*$/, '') + '/v1/segment';
  return `# the mask: a PNG whose pixel values are class indices
curl -F image=@photo.jpg ${url} -o mask.png

# sizes, shares and confidence
curl -F image=@photo.jpg -H 'Accept: application/json' ${url}`;
}"""


def build_page(segmenter: Segmenter, examples: Sequence[Path]) -> tuple[gr.Blocks, gr.Image]:
    """The page and its input. Its endpoint `/segment` takes a photo and answers (stage, legend, JSON summary)."""
    engine = segmenter.engine

    def segment(upload: dict[str, Any] | None) -> tuple[str, str, dict[str, Any] | None]:
        if upload is None:
            return notice("Drop a photo or pick an example: the result appears here."), "", None
        try:
            segmentation = segmenter.segment(read_upload(upload, photo))
        except UserError as error:
            # In the stage, not as a passing gr.Error: the last photo's result must not stand beside this photo.
            return notice(f"This photo cannot be used: {error}."), "", {"error": str(error)}
        summary = summarise(engine, segmentation)
        return stage(segmentation, engine.labels, summary), legend(summary), summary.model_dump()

    with gr.Blocks(title=f"{engine.name} · semseg", analytics_enabled=False, delete_cache=KEEP_UPLOADS) as page:
        gr.HTML(heading(engine.name, engine_info(engine), len(engine.labels.classes)), elem_id="heading")
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                photo = gr.Image(
                    value=str(examples[0]) if examples else None,
                    label="Photo",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    buttons=[],
                    height=280,
                    elem_id="photo",
                )
                if examples:
                    gr.Examples([[str(path)] for path in examples], photo, examples_per_page=12, elem_id="examples")
            with gr.Column(scale=7, min_width=320):
                result = gr.HTML(elem_id="result")
                with gr.Row(equal_height=True):
                    layer = gr.Radio(["Classes", "Confidence"], value="Classes", label="Layer", min_width=200)
                    opacity = gr.Slider(0, 100, _OPACITY, step=1, label="Opacity, %", min_width=200)
                classes = gr.HTML(elem_id="legend", container=True)
        with gr.Accordion("The same from the command line", open=False):
            call = gr.Code(language="shell", label="curl", interactive=False, wrap_lines=True)
            answer = gr.JSON(label="JSON answer", max_height=320)

        # preprocess=False hands over the uploaded file: Gradio's own decoding has neither our limits nor our words.
        outputs = [result, classes, answer]
        photo.change(
            segment,
            photo,
            outputs,
            preprocess=False,
            api_name="segment",
            show_progress="minimal",
            show_progress_on=result,
        )
        page.load(segment, photo, outputs, preprocess=False, api_visibility="private", show_progress="hidden")
        opacity.input(None, opacity, js=_SET_OPACITY)
        layer.change(None, layer, js=_SET_LAYER)
        page.load(None, None, call, js=_SHOW_CALL)
    page.queue(max_size=WAITING_VISITORS)
    return page, photo


def _theme() -> gr.themes.Base:
    """Slate and teal, labels as plain text. The fonts come with Gradio: nothing is fetched from outside."""
    text = gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700))
    theme = gr.themes.Soft(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=[text, "system-ui", "sans-serif"],
    )
    return theme.set(
        background_fill_primary="*neutral_50",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color_subdued",
        block_title_text_color_dark="*body_text_color_subdued",
        block_title_padding="0",
    )


def mount_page(app: FastAPI, segmenter: Segmenter, examples: Sequence[Path], max_bytes: int) -> None:
    """Mount the page at `/`, after the routes that `app` has by now: those keep working."""
    page, photo = build_page(segmenter, examples)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=max_bytes,
        show_error=False,  # of what Gradio itself raises: its messages name paths of the server
        theme=_theme(),
        css_paths=Path(__file__).with_name("demo.css"),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
    )
    accept_uploads_only(page, photo)
