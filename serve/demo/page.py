"""The web page: a photo in; classes and confidence over it, a chart of shares, downloads, and the call that does it.

Layers are colored and blended by the browser (demo.js), so that moving the opacity slider costs the server nothing.
"""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

from semseg_app.serve.demo.theme import theme  # first: it switches Gradio's analytics off

import gradio as gr  # isort: skip
from fastapi import FastAPI
from gradio.components import Component
from gradio.utils import get_upload_folder

from semseg_app.data.listing import IMAGE_SUFFIXES
from semseg_app.errors import UserError
from semseg_app.serve.answers.formats import FORMATS
from semseg_app.serve.answers.schemas import engine_info
from semseg_app.serve.demo import html
from semseg_app.serve.demo.callbacks import Calls
from semseg_app.serve.demo.flags import FlagFolder
from semseg_app.serve.demo.uploads import accept_uploads_only
from semseg_app.serve.scheduling.registry import Models

WAITING_VISITORS = 64
"""Photos that may wait for the engine; further visitors see that the page is busy."""

KEEP_UPLOADS = (300, 900)
"""Seconds: how often Gradio deletes uploaded files, and how old they must be. All go when the server stops."""

VIEWS = ("Classes", "Confidence", "Before / after")
CARD_VIEWS = ("Classes", "Differences from the first model")
_OPACITY = 60
"""Opacity of the classes at first, %."""
_BRUSH = 6
"""Width of the brush at first, % of the photo."""


class Built(NamedTuple):
    """The page before it is mounted."""

    blocks: gr.Blocks
    takes_files: list[Component]


def build_page(models: Models) -> Built:
    """The page. Its endpoints have the names of the methods of `Calls`; clients call /segment."""
    names = models.names()
    engine = models.get().engine
    config = models.config
    flags = FlagFolder(config.flag_to, engine.labels) if config.flag_to else None
    calls = Calls(models, config.max_bytes, flags)
    examples = [[str(path)] for path in config.examples]

    with gr.Blocks(title=f"{engine.name} · semseg", analytics_enabled=False, delete_cache=KEEP_UPLOADS) as page:
        gr.HTML(html.heading(names, engine_info(engine), len(engine.labels.classes)), elem_id="heading")
        model = gr.Radio(
            names, value=names[0], label="Model", elem_id="model", visible=len(names) > 1, interactive=True
        )
        with gr.Tab("One photo", elem_id="one"):
            with gr.Row(equal_height=False, elem_id="answer"):
                with gr.Column(scale=7, min_width=320, elem_id="main"):
                    photo = gr.Image(
                        value=examples[0][0] if examples else None,
                        label="Photo",
                        type="filepath",
                        sources=["upload", "webcam", "clipboard"],
                        buttons=[],
                        height=280,
                        elem_id="photo",
                    )
                    result = gr.HTML(elem_id="result")
                with gr.Column(scale=4, min_width=300, elem_id="aside"):
                    with gr.Column(elem_id="look", min_width=260):  # a Group would give its id to two elements
                        view = gr.Radio(VIEWS, value=VIEWS[0], label="View", elem_id="view")
                        opacity = gr.Slider(0, 100, _OPACITY, step=1, label="Opacity, %", elem_id="opacity")
                        split = gr.Slider(0, 100, 50, step=1, label="Photo up to, %", elem_id="split")
                        outlines = gr.Checkbox(label="Outlines of the classes", elem_id="outlines")
                        distinct = gr.Checkbox(label="Colors that are easy to tell apart", elem_id="distinct")
                    classes = gr.HTML(elem_id="legend", container=True)
                    if examples:
                        gr.Examples(examples, photo, examples_per_page=12, elem_id="examples")
                    if config.demo_urls:
                        with gr.Row(elem_id="url"):
                            url = gr.Textbox(label="Address of a photo", placeholder="https://", scale=4, min_width=140)
                            fetch = gr.Button("Fetch", scale=1, min_width=80, elem_id="fetch")
            with gr.Accordion("Download, or call it yourself", open=False, elem_id="take"):
                with gr.Row():
                    pairs = [(row.title, name) for name, row in FORMATS.items()]
                    form = gr.Dropdown(
                        pairs, value="png", label="Format", filterable=False, min_width=200, elem_id="format"
                    )
                    download = gr.Button("Download", variant="primary", min_width=120, elem_id="download")
                file = gr.File(elem_id="file", interactive=False, label="File")
                with gr.Tab("curl"):
                    curl = gr.Code(language="shell", label="curl", lines=1, interactive=False, wrap_lines=True)
                with gr.Tab("Python"):
                    python = gr.Code(language="python", label="Python", lines=1, interactive=False, wrap_lines=True)
                with gr.Tab("JSON answer"):
                    answer = gr.JSON(label="JSON answer", max_height=320)
            if flags:
                with gr.Accordion("Something is wrong here", open=False, elem_id="flag"):
                    gr.Markdown(
                        "Send this photo to the owner of this server, for the next training. It helps most if you "
                        "correct it: pick a class, paint over what is wrong, then send."
                    )
                    with gr.Row(equal_height=True):
                        brush = gr.Dropdown(
                            ["Do not paint", *engine.labels.classes],
                            value="Do not paint",
                            label="Paint as",
                            elem_id="brush",
                        )
                        size = gr.Slider(1, 30, _BRUSH, step=1, label="Brush, % of the photo", elem_id="brush-size")
                    with gr.Row():
                        undo = gr.Button("Undo a stroke", elem_id="undo")
                        send = gr.Button("Send", variant="primary", elem_id="send")
                    drawing = gr.Textbox(visible=False)
                    kept = gr.HTML(elem_id="kept")
        if len(names) > 1:
            with gr.Tab("Side by side", elem_id="side") as side:
                shown = gr.Radio(CARD_VIEWS, value=CARD_VIEWS[0], label="Show on the photos", elem_id="shown")
                cards = gr.HTML(html.notice("Pick a photo first."), elem_id="compared")
        with gr.Tab("Many photos", elem_id="many"):
            uploads = gr.File(file_count="multiple", label="Photos, folders or a ZIP", elem_id="uploads", height=200)
            gr.HTML(html.pickers(IMAGE_SUFFIXES), elem_id="folder")
            start = gr.Button("Segment all", variant="primary", elem_id="start", interactive=False)
            listed = gr.HTML(elem_id="listed")
            archive = gr.File(label="Masks, overlays and shares", interactive=False, visible=False, elem_id="archive")

        calls.photo = photo
        # preprocess=False hands over the uploaded file: Gradio's own decoding has neither our limits nor our words.
        outputs = [result, classes, answer]
        photo.change(
            calls.segment,
            [photo, model],
            outputs,
            api_name="segment",
            preprocess=False,
            show_progress="minimal",
            show_progress_on=result,
        )
        model.change(
            calls.segment,
            [photo, model],
            outputs,
            api_visibility="private",
            preprocess=False,
            show_progress="minimal",
            show_progress_on=result,
        )
        page.load(
            calls.segment,
            [photo, model],
            outputs,
            api_visibility="private",
            preprocess=False,
            show_progress="hidden",
        )
        opacity.input(None, opacity, js="(percent) => window.semsegDemo.setOpacity(percent)")
        split.input(None, split, js="(percent) => window.semsegDemo.setSplit(percent)")
        view.change(None, view, js="(name) => window.semsegDemo.setView(name)")
        outlines.change(None, outlines, js="(outlined) => window.semsegDemo.setOutlines(outlined)")
        distinct.change(None, distinct, js="(distinct) => window.semsegDemo.setDistinct(distinct)")

        # Behind a proxy, only the browser knows the address that the visitor sees.
        several = json.dumps(len(names) > 1)
        files = json.dumps({name: row.file for name, row in FORMATS.items()})
        snippet = f"(model, format) => window.semsegDemo.call(model, {several}, format, {files})"
        for event in (page.load, model.change, form.change):
            event(None, [model, form], [curl, python], js=snippet)
        ready = download.click(calls.download, [photo, model, form], file, preprocess=False, api_name="download")
        ready.success(None, js="() => window.semsegDemo.download()")
        if config.demo_urls:
            gr.on([fetch.click, url.submit], calls.fetch, url, photo, api_visibility="private")
        if flags:
            for changed in (brush.change, size.change):
                changed(None, [brush, size], js="(name, size) => window.semsegDemo.setBrush(name, size)")
            undo.click(None, js="() => window.semsegDemo.undo()")
            send.click(
                calls.flag,
                [photo, model, drawing],
                kept,
                preprocess=False,
                api_name="flag",
                js="(photo, model) => [photo, model, window.semsegDemo.corrections()]",
            )
            photo.change(lambda: "", None, kept, api_visibility="private")
        if len(names) > 1:
            side.select(calls.compare, photo, cards, preprocess=False, api_name="compare")
            shown.change(None, shown, js="(name) => window.semsegDemo.setCards(name)")
        uploads.change(
            lambda files: gr.update(interactive=bool(files)), uploads, start, preprocess=False, api_visibility="private"
        )
        start.click(calls.many, [uploads, model], [listed, archive], preprocess=False, api_name="many")
    page.queue(max_size=WAITING_VISITORS)
    return Built(page, [photo, uploads])


def mount_page(app: FastAPI, models: Models) -> None:
    """Mount the page at `/`. Call it last: routes that `app` already has keep working.

    UserError where the folder that takes uploads cannot be written.
    """
    _check_upload_folder()
    page, takes_files = build_page(models)
    here = Path(__file__)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=models.config.max_bytes,
        show_error=False,  # messages that Gradio itself raises name paths of the server
        theme=theme(),
        css_paths=here.with_name("demo.css"),
        js=here.with_name("demo.js").read_text("utf-8"),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
    )
    # Else an open page holds the server back: it sends that it is alive, and never ends.
    models.at_stop.append(page.app.stop_event.set)
    accept_uploads_only(page, takes_files)


def _check_upload_folder() -> None:
    """Now, and not at the first upload: on a machine of several people, /tmp/gradio may belong to another one."""
    folder = Path(get_upload_folder())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"{folder}: the page keeps uploads there, and it cannot be written ({error.strerror}); set GRADIO_TEMP_DIR "
            "to a folder of yours, or leave the page out with --no-demo"
        ) from error
