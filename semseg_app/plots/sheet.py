"""A page of photos to look through: one HTML file that holds everything, without a script."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from semseg_app.files import atomic_file
from semseg_app.labels import LabelSpace, hex_color

WIDTH, HEIGHT = 320, 240
"""Pixels that a picture is scaled down to fit in: about 20 KB each."""

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
ul.classes { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; padding: 0; }
ul.classes i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; border: 1px solid #8888; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); gap: 1.2rem; }
article { border: 1px solid #8886; border-radius: .5rem; padding: .8rem; }
article > div { display: flex; flex-wrap: wrap; gap: .5rem; }
figure { margin: 0; flex: 1 1 9rem; } figure img { width: 100%; height: auto; display: block; border-radius: .2rem; }
figcaption { font-size: .85rem; opacity: .8; } article p { margin: .4rem 0 0; }
"""


class Entry(NamedTuple):
    """One photo on the page."""

    title: str
    pictures: Sequence[tuple[str, np.ndarray]]
    """(caption, uint8 RGB `[H, W, 3]`)."""
    lines: Sequence[str] = ()


def write_sheet(path: Path, title: str, intro: Sequence[str], labels: LabelSpace, entries: Iterable[Entry]) -> None:
    """Write the page, whole or not at all. The pictures of one entry are in memory at a time.

    Args:
        path: the .html file; replaced where it exists.
        title: of the page.
        intro: paragraphs above the photos.
        labels: the classes, as a legend of their colors.
        entries: in order.
    """
    legend = "".join(
        f'<li><i style="background:{hex_color(color)}"></i>{html.escape(name)}</li>'
        for name, color in zip(labels.classes, labels.palette, strict=True)
    )
    with atomic_file(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
            f"<body><h1>{html.escape(title)}</h1>\n{_paragraphs(intro)}\n"
            f'<ul class="classes">{legend}</ul>\n<main>\n'
        )
        for entry in entries:
            figures = "".join(_figure(entry.title, caption, pixels) for caption, pixels in entry.pictures)
            file.write(
                f"<article><h2>{html.escape(entry.title)}</h2>"
                f"<div>{figures}</div>{_paragraphs(entry.lines)}</article>\n"
            )
        file.write("</main></body></html>\n")


def _paragraphs(lines: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _figure(title: str, caption: str, pixels: np.ndarray) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((WIDTH, HEIGHT), Image.Resampling.BOX)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=70)
    address = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
    alt = html.escape(f"{title}: {caption}")
    return f'<figure><img src="{address}" alt="{alt}"><figcaption>{html.escape(caption)}</figcaption></figure>'
