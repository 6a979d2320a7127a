"""Segment photos in the browser, with the exported graph that lies beside this file, on a CPU.

`semseg space` uploads this file as app.py. It needs gradio, onnxruntime, numpy and pillow, and nothing else.
"""

import json
import os
from pathlib import Path
from typing import Any

import gradio
import numpy as np
from PIL import Image, ImageOps

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported

import onnxruntime

LONGEST_SIDE = 1024
"""Larger photos are scaled down: the free hardware has little memory."""


def build(graph: Path) -> gradio.Blocks:
    """The page for one exported graph."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["semseg_app"])
    names, palette = about["labels"]["classes"], np.array(about["labels"]["palette"], np.uint8)

    def segment(photo: Image.Image | None) -> tuple[Any, ...]:
        if photo is None:
            raise gradio.Error("Give a photo first.")
        if photo.mode.startswith(("I", "F")):
            raise gradio.Error("This photo has 16 bits or more per channel; convert it to 8 bits.")
        photo = ImageOps.exif_transpose(photo)
        if photo.has_transparency_data:
            layer = photo.convert("RGBA")
            photo = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        photo = photo.convert("RGB")
        photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        pixels = np.asarray(photo)
        found, confidence = session.run(["classes", "confidence"], {"images": pixels[None]})
        classes = found[0]
        counts = np.bincount(classes.ravel(), minlength=len(names))[: len(names)]
        present = [index for index in np.argsort(-counts) if counts[index]]
        shown = (pixels, [(classes == index, names[index]) for index in present])
        shares = {names[index]: float(counts[index] / classes.size) for index in present}
        return shown, Image.fromarray(palette[classes]), shares, f"Mean confidence {confidence.mean() / 255:.1%}"

    colors = {name: "#{:02x}{:02x}{:02x}".format(*color) for name, color in zip(names, palette, strict=True)}
    page = gradio.Blocks(title=about["name"])
    with page:
        gradio.Markdown(f"# {about['name']}\nOne of {len(names)} classes for each pixel. Photos are not kept.")
        with gradio.Row():
            photo = gradio.Image(type="pil", image_mode=None, label=f"Photo (scaled down to {LONGEST_SIDE} pixels)")
            overlay = gradio.AnnotatedImage(label="Classes", color_map=colors)
        button = gradio.Button("Segment", variant="primary")
        with gradio.Row():
            mask = gradio.Image(label="Mask", format="png")
            with gradio.Column():
                shares = gradio.Label(label="Share of the pixels", num_top_classes=8)
                told = gradio.Markdown()
        button.click(segment, photo, [overlay, mask, shares, told], api_name="segment")
    return page


if __name__ == "__main__":
    build(Path(__file__).parent / "model.onnx").launch()
