"""The parts of the web page that Gradio has no component for, as HTML strings. Styled by demo.css."""

import base64
import html
import io
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from semseg_app.labels import LabelSpace, hex_color
from semseg_app.masks import gray_png, indexed_png
from semseg_app.serve.answers.schemas import EngineInfo, Summary
from semseg_app.serve.demo.colors import HEAT, distinct_colors, heat_colors
from semseg_app.serve.model_facts import ModelFacts
from semseg_app.serve.scheduling.segmentation import Segmentation

DISPLAY_SIDE = 1600
"""Longest side of the pictures that the browser gets, pixels. The class map itself is computed at full size."""

COMPARED_SIDE = 800
"""The same on the cards of models side by side."""

_DIFFERENCE = (225, 29, 116)
"""Where two models disagree. The photo below it is shown in gray."""

_MARK = (
    '<svg class="mark" viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="8" fill="#0f766e"/>'
    '<path d="M0 20 L12 13 L32 19 V24 a8 8 0 0 1 -8 8 H8 a8 8 0 0 1 -8 -8 Z" fill="#5eead4"/>'
    '<path d="M13 32 L17 16 H20 L27 31 a8 8 0 0 1 -3 1 Z" fill="#134e4a"/>'
    '<circle cx="23" cy="8" r="3.5" fill="#fde68a"/>'
    "</svg>"
)


_ZOOM = "".join(
    f'<button type="button" data-zoom="{step}" aria-label="{label}" title="{label}">{text}</button>'
    for step, label, text in (("out", "Zoom out", "−"), ("fit", "Show the whole photo", "fit"), ("in", "Zoom in", "+"))
)


class Compared(NamedTuple):
    """One model's answer about the photo that all of them were given."""

    model: str
    segmentation: Segmentation
    labels: LabelSpace
    engine: EngineInfo
    facts: ModelFacts


def heading(models: list[str], engine: EngineInfo, classes: int) -> str:
    """Title, one sentence, and what runs."""
    several = len(models) > 1
    chips = [f"{len(models)} models"] if several else [models[0], engine.kind, engine.device, engine.precision]
    chips.insert(1, f"{classes} classes")
    return (
        f'<header class="heading">{_MARK}<div><h1>Semantic segmentation</h1>'
        "<p>Give it a photo: every pixel gets a class. Nothing leaves this server.</p></div>"
        f'<p class="chips">{"".join(f"<span>{html.escape(chip)}</span>" for chip in chips)}</p></header>'
    )


def notice(text: str) -> str:
    """The stage without a result."""
    return f'<div class="stage empty"><p>{html.escape(text)}</p></div>'


def stage(segmentation: Segmentation, labels: LabelSpace, summary: Summary) -> str:
    """The photo with its classes and confidences as two gray pictures, which demo.js colors and lays over the photo."""
    size = display_size(segmentation)
    classes = gray_png(_nearest(segmentation.classes, size))
    confidence = gray_png(_nearest(segmentation.confidence, size))
    height, width = segmentation.classes.shape
    largest = ", ".join(f"{entry.name} {_percent(entry.share)}" for entry in summary.classes[:5])
    spoken = f"the photo with its classes: {largest}. Arrow keys read out pixels, plus and minus zoom."
    data = {
        "classes": json.dumps(labels.classes),
        "palette": json.dumps([hex_color(color) for color in labels.palette]),
        "distinct": json.dumps(distinct_colors(len(labels.classes))),
        "heat": json.dumps(heat_colors()),
    }
    attributes = " ".join(f'data-{key}="{html.escape(value)}"' for key, value in data.items())
    stops = ",".join(f"{color} {confidence:.0%}" for confidence, color in HEAT)
    return (
        f'<figure class="stage" {attributes}>'
        f'<div class="layers" style="aspect-ratio:{size[0]}/{size[1]};--ratio:{size[0] / size[1]:.4f}" tabindex="0" '
        f'role="img" aria-label="{html.escape(spoken)}">'
        '<div class="sheet">'
        f'<img class="photo" alt="" src="{_data_uri(_jpeg(display_photo(segmentation)), "image/jpeg")}">'
        f'<img class="classes" alt="" hidden src="{_data_uri(classes, "image/png")}">'
        f'<img class="confidence" alt="" hidden src="{_data_uri(confidence, "image/png")}">'
        '<canvas class="layer classes"></canvas><canvas class="layer confidence"></canvas>'
        '<canvas class="layer outlines"></canvas><span class="divider"></span></div>'
        '<span class="tip" role="status" hidden></span></div>'
        f'<div class="zoom">{_ZOOM}</div>'
        f'<p class="scale"><span>unsure</span><i style="background:linear-gradient(to right,{stops})"></i>'
        "<span>sure</span></p>"
        f"<figcaption><span>{width} × {height}</span><span>decoded in {summary.latency_ms.decode:.0f} ms</span>"
        f"<span>segmented in <b>{summary.latency_ms.inference:.0f} ms</b></span>"
        f"<span>{summary.engine.kind} on {summary.engine.device}, {summary.engine.precision}</span>"
        "</figcaption></figure>"
    )


def legend(summary: Summary) -> str:
    """The chart of class shares: one bar of all classes, then a row per class, which shows and hides it."""
    if not summary.classes:
        return ""
    widest = summary.classes[0].share
    bar = "".join(
        f'<i data-color="{entry.index}" style="width:{100 * entry.share:.2f}%;background:{entry.color}" '
        f'title="{html.escape(entry.name)}"></i>'
        for entry in summary.classes
    )
    rows = "".join(
        f'<li data-index="{entry.index}" title="mean confidence {_percent(entry.confidence)}"><label>'
        f'<input type="checkbox" checked data-class="{html.escape(entry.name)}">'
        f'<span class="swatch" data-color="{entry.index}" style="background:{entry.color}"></span>'
        f'<span class="name">{html.escape(entry.name)}</span>'
        f'<span class="bar"><i data-color="{entry.index}" '
        f'style="width:{100 * entry.share / widest:.1f}%;background:{entry.color}"></i></span>'
        f'<span class="share">{_percent(entry.share)}</span></label></li>'
        for entry in summary.classes
    )
    return (
        '<section class="legend" aria-label="Shares of the classes"><h2>Classes'
        '<span><button type="button" data-show="all">show all</button>'
        '<button type="button" data-show="none">hide all</button></span></h2>'
        f'<div class="shares" aria-hidden="true">{bar}</div><ul>{rows}</ul>'
        f'<p class="overall">mean confidence <b>{_percent(summary.confidence)}</b></p></section>'
    )


def comparison(compared: list[Compared]) -> str:
    """Several models' answers side by side: facts and time of each, and where it differs from the first."""
    first = compared[0]
    fastest = min(answer.segmentation.inference_ms for answer in compared)
    cards = []
    for answer in compared:
        size = display_size(answer.segmentation, COMPARED_SIDE)
        photo = _jpeg(display_photo(answer.segmentation, COMPARED_SIDE))
        classes = indexed_png(_nearest(answer.segmentation.classes, size), answer.labels.palette)
        same = float((answer.segmentation.classes == first.segmentation.classes).mean())
        agreement = (
            "the reference for the others"
            if answer is first
            else f"<b>{_percent(same)}</b> of the pixels agree with {html.escape(first.model)}"
            if answer.labels.classes == first.labels.classes
            else "has other classes"
        )
        differs = ""
        if answer is not first and answer.labels.classes == first.labels.classes:
            mask = _difference(answer.segmentation.classes != first.segmentation.classes, size)
            differs = (
                f'<img class="differences" alt="where {html.escape(answer.model)} differs from '
                f'{html.escape(first.model)}" src="{_data_uri(mask, "image/png")}">'
            )
        share = 100 * answer.segmentation.inference_ms / max(c.segmentation.inference_ms for c in compared)
        quickest = " fastest" if answer.segmentation.inference_ms == fastest and len(compared) > 1 else ""
        cards.append(
            f'<li class="card{quickest}"><h2>{html.escape(answer.model)}</h2>'
            f'<div class="layers" style="aspect-ratio:{size[0]}/{size[1]}">'
            f'<img class="photo" alt="" src="{_data_uri(photo, "image/jpeg")}">'
            f'<img class="layer" alt="classes predicted by {html.escape(answer.model)}" '
            f'src="{_data_uri(classes, "image/png")}">{differs}</div>'
            f'<p class="time"><b>{answer.segmentation.inference_ms:.0f} ms</b>'
            f'<span class="bar"><i style="width:{share:.1f}%"></i></span></p>'
            f"<p>{agreement}</p>{_facts(answer)}</li>"
        )
    return f'<ul class="cards">{"".join(cards)}</ul>'


def _facts(answer: Compared) -> str:
    """Score, size, precision and engine of a model; what is not known is left out."""
    facts = {
        "mIoU": None if answer.facts.miou is None else f"{100 * answer.facts.miou:.1f} %",
        "size": None if answer.facts.file_bytes is None else f"{answer.facts.file_bytes / 1e6:.1f} MB",
        "precision": answer.engine.precision,
        "runs with": f"{answer.engine.kind} on {answer.engine.device}",
    }
    rows = "".join(f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts.items() if value)
    return f"<dl>{rows}</dl>"


def table(rows: list[dict[str, object]], failed: list[tuple[str, str]]) -> str:
    """A row per photo: size, largest classes and confidence, or why it failed."""
    lines = []
    for row in rows:
        shares = row["shares"]
        assert isinstance(shares, dict)
        top = sorted(shares.items(), key=lambda pair: -pair[1])[:3]
        largest = ", ".join(f"{html.escape(name)} {_percent(share)}" for name, share in top if share)
        lines.append(
            f"<tr><th scope='row'>{html.escape(str(row['file']))}</th><td>{row['width']} × {row['height']}</td>"
            f"<td>{largest}</td><td>{_percent(float(str(row['mean_confidence'])))}</td></tr>"
        )
    lines += [
        f"<tr class='failed'><th scope='row'>{html.escape(name)}</th><td colspan='3'>{html.escape(reason)}</td></tr>"
        for name, reason in failed
    ]
    return (
        "<div class='table'><table><thead><tr><th scope='col'>photo</th><th scope='col'>size</th>"
        "<th scope='col'>largest classes</th><th scope='col'>mean confidence</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def pickers(suffixes: Sequence[str]) -> str:
    """Two more ways into the field of many photos: browsers pick either files or a folder, never both in one dialog."""
    accept = ",".join([*suffixes, ".zip"])
    return (
        '<label class="picker">Pick photos or a ZIP'
        f'<input type="file" multiple accept="{accept}" data-into="uploads"></label>'
        '<label class="picker">Pick a folder<input type="file" multiple webkitdirectory data-into="uploads"></label>'
        "<span>or drop all of them above, folders too.</span>"
    )


def message(text: str, good: bool) -> str:
    """A line that says what a button did."""
    return f'<p class="message {"good" if good else "bad"}" role="status">{html.escape(text)}</p>'


def display_size(segmentation: Segmentation, side: int = DISPLAY_SIDE) -> tuple[int, int]:
    """Width and height of the pictures that the browser gets, pixels."""
    height, width = segmentation.classes.shape
    scale = min(1.0, side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def display_photo(segmentation: Segmentation, side: int = DISPLAY_SIDE) -> np.ndarray:
    """The photo at that size, uint8 RGB `[h, w, 3]`."""
    image = Image.fromarray(segmentation.image)
    size = display_size(segmentation, side)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2))


def _jpeg(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=88)
    return encoded.getvalue()


def _difference(apart: np.ndarray, size: tuple[int, int]) -> bytes:
    """bool `[H, W]` -> a PNG of (width, height) `size`: one color where True, transparent elsewhere."""
    picture = Image.fromarray(_nearest(apart.astype(np.uint8), size))
    picture.putpalette([0, 0, 0, *_DIFFERENCE])
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", transparency=0)
    return encoded.getvalue()


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] at (width, height) `size`, without mixing values."""
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.NEAREST))


def _percent(part: float) -> str:
    return "< 0.1 %" if 0 < part < 0.001 else f"{100 * part:.1f} %"


def _data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
