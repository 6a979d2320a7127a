"""A served page and one Chromium for all browser tests of the page."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import yaml
from fastapi import FastAPI
from support.browser import FLAGS, PATIENCE, SIZES
from support.color_engine import ColorEngine

from semseg_app.inference.engines.base import Prediction
from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.model_facts import ModelFacts
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.served_model import ServedModel


class Unsure(ColorEngine):
    """Says green of what is blue, and is half as sure of everything."""

    name, precision = "unsure", "int8"

    def infer(self, images: np.ndarray) -> Prediction:
        classes, confidence = super().infer(images)
        return Prediction(np.where(classes == 2, np.uint8(1), classes), confidence // 2)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    (root / "dataset.yaml").write_text(yaml.safe_dump({"name": "flags", "classes": ColorEngine.labels.classes}))
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    return root


@pytest.fixture(scope="session")
def url(running, encoded, tmp_path_factory, dataset):
    folder = tmp_path_factory.mktemp("examples")
    image = np.zeros((120, 160, 3), np.uint8)
    image[:, :120, 0] = 255
    image[:, 120:, 1] = 255
    (folder / "1.png").write_bytes(encoded(image))
    (folder / "2.png").write_bytes(encoded(image[..., ::-1]))

    async def build() -> FastAPI:
        config = ServeConfig(examples=sorted(folder.iterdir()), flag_to=dataset, demo_urls=True)
        known = ServedModel(ColorEngine(), describe=lambda engine: ModelFacts(file_bytes=2_500_000, miou=0.615))
        models = Models([known, ServedModel(Unsure())], config)
        return create_app(models)

    with running(asyncio.run(build())) as url:
        yield url


@pytest.fixture(scope="module")  # its event loop must not outlive the browser tests
def chromium():
    from playwright.sync_api import sync_playwright  # CI's unit tests may lack it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(params=[(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids="-".join)
def page(request, url, chromium):
    """The opened page. Fails when the page asks another host for anything, or writes an error to the console."""
    from playwright.sync_api import expect

    size, scheme = request.param
    context = chromium.new_context(viewport=SIZES[size], color_scheme=scheme, has_touch=size == "phone")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    asked, complaints = [], []
    page.on("request", lambda asking: asked.append(asking.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    expect(page.locator("#result .stage[data-ready]")).to_be_visible()
    yield page
    assert [address for address in asked if not address.startswith((url, "data:", "blob:"))] == []
    assert complaints == []
    context.close()
