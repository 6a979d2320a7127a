"""The parts of the web page that Gradio has no component for, as HTML strings. Styled by demo.css."""

import base64
import html
import io

import numpy as np
from PIL import Image

from semseg_app.artifact import LabelSpace
from semseg_app.masks import indexed_png
from semseg_app.serve.answers import EngineInfo, Summary
from semseg_app.serve.segmenter import Segmentation

DISPLAY_SIDE = 1600
"""Longest side of what is sent to the browser. The class map itself is computed at full size."""

_HEAT = [(0.0, "#fcfdbf"), (0.3, "#fe9f6d"), (0.55, "#de4968"), (0.8, "#8c2981"), (1.0, "#2a1155")]
"""Confidence 0 to 1 -> colour (after matplotlib's magma, turned round). What the model is unsure of glows; lightness
falls all the way, so that the scale survives colour blindness."""

_MARK = (
    '<svg class="mark" viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="8" fill="#0f766e"/>'
    '<path d="M0 20 L12 13 L32 19 V24 a8 8 0 0 1 -8 8 H8 a8 8 0 0 1 -8 -8 Z" fill="#5eead4"/>'
    '<path d="M13 32 L17 16 H20 L27 31 a8 8 0 0 1 -3 1 Z" fill="#134e4a"/>'
    '<circle cx="23" cy="8" r="3.5" fill="#fde68a"/>'
    "</svg>"
)


def heading(model: str, engine: EngineInfo, classes: int) -> str:
    """Title, one sentence, and what runs."""
    chips = [model, f"{classes} classes", engine.kind, engine.device, engine.precision]
    return (
        f'<header class="heading">{_MARK}<div><h1>Semantic segmentation</h1>'
        "<p>Give it a photo: every pixel gets a class. Nothing leaves this server.</p></div>"
        f'<p class="chips">{"".join(f"<span>{html.escape(chip)}</span>" for chip in chips)}</p></header>'
    )


def notice(text: str) -> str:
    """The stage without a result."""
    return f'<div class="stage empty"><p>{html.escape(text)}</p></div>'


def stage(segmentation: Segmentation, labels: LabelSpace, summary: Summary) -> str:
    """The photo with its class and confidence layers on top; the page's controls set how opaque and which one."""
    height, width = segmentation.classes.shape
    scale = min(1.0, DISPLAY_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    photo = io.BytesIO()
    Image.fromarray(segmentation.image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2).save(
        photo, "JPEG", quality=88
    )
    classes = indexed_png(_nearest(segmentation.classes, size), labels.palette)
    confidence = indexed_png(_nearest(segmentation.confidence, size), _heat_palette())
    found = html.escape(", ".join(f"{entry.name} {_percent(entry.share)}" for entry in summary.classes[:5]))
    stops = ",".join(f"{colour} {place:.0%}" for place, colour in _HEAT)
    return (
        '<figure class="stage">'
        f'<div class="layers" style="aspect-ratio:{size[0]}/{size[1]};--ratio:{size[0] / size[1]:.4f}">'
        f'<img class="photo" alt="the photo" src="{_data_uri(photo.getvalue(), "image/jpeg")}">'
        f'<img class="layer classes" alt="classes: {found}" src="{_data_uri(classes, "image/png")}">'
        f'<img class="layer confidence" alt="confidence" src="{_data_uri(confidence, "image/png")}"></div>'
        f'<p class="scale"><span>unsure</span><i style="background:linear-gradient(to right,{stops})"></i>'
        "<span>sure</span></p>"
        f"<figcaption><span>{width} × {height}</span><span>decoded in {summary.latency_ms.decode:.0f} ms</span>"
        f"<span>segmented in <b>{summary.latency_ms.inference:.0f} ms</b></span>"
        f"<span>{summary.engine.kind} on {summary.engine.device}, {summary.engine.precision}</span>"
        "</figcaption></figure>"
    )


def legend(summary: Summary) -> str:
    """The classes that occur, with colour, name, a bar for the share of pixels, and the model's confidence."""
    widest = summary.classes[0].share
    rows = "".join(
        f'<li title="mean confidence {_percent(entry.confidence)}">'
        f'<span class="swatch" style="background:{entry.color}"></span>'
        f'<span class="name">{html.escape(entry.name)}</span>'
        f'<span class="bar"><i style="width:{100 * entry.share / widest:.1f}%;background:{entry.color}"></i></span>'
        f'<span class="share">{_percent(entry.share)}</span></li>'
        for entry in summary.classes
    )
    return (
        f'<section class="legend"><ul>{rows}</ul>'
        f'<p class="overall">mean confidence <b>{_percent(summary.confidence)}</b></p></section>'
    )


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] at (width, height) `size`, without mixing values."""
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.NEAREST))


def _heat_palette() -> list[tuple[int, int, int]]:
    """256 colours, unsure to sure."""
    places = [255 * place for place, _ in _HEAT]
    stops = np.array([tuple(bytes.fromhex(colour[1:])) for _, colour in _HEAT])
    channels = [np.interp(np.arange(256), places, stops[:, channel]).round() for channel in range(3)]
    return [(int(red), int(green), int(blue)) for red, green, blue in zip(*channels, strict=True)]


def _percent(part: float) -> str:
    return "< 0.1 %" if 0 < part < 0.001 else f"{100 * part:.1f} %"


def _data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
