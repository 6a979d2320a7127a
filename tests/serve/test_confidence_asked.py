"""Requests that need no confidence ask the engine for class maps alone, and get the same answers."""

import io
import json
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.color_engine import ColorEngine

from semseg_app.serve.answers.formats import FORMATS
from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.scheduling.queue import Batcher


class Telling(ColorEngine):
    """Notes what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def infer(self, images):
        self.asked.append("confidence")
        return super().infer(images)

    def classes(self, images):
        self.asked.append("classes")
        return super().infer(images).classes


@pytest.fixture(scope="module")
def server():
    engine = Telling()
    with TestClient(create_app(engine, ServeConfig(demo=False))) as client:
        while client.get("/health/ready").status_code == 503:
            pass
        yield engine, client


@pytest.fixture
def ask(server, encoded, photo):
    """POST the photo; what the engine was asked for, and the answer."""
    engine, client = server

    def ask(address: str, **options):
        engine.asked.clear()
        answer = client.post(address, **(options or {"files": {"image": encoded(photo)}}))
        assert answer.status_code == 200, answer.text
        return set(engine.asked), answer

    return ask


@pytest.mark.parametrize("form", FORMATS)
def test_only_formats_that_show_confidence_ask_for_it(ask, form):
    asked, answer = ask(f"/v1/segment?format={form}")
    assert asked == {"confidence" if form in ("json", "confidence") else "classes"}
    assert answer.content


def test_a_threshold_asks_for_it(ask, mask):
    asked, answer = ask("/v1/segment?format=png&threshold=0.75")
    assert asked == {"confidence"}
    # Red has 255, green 200, blue 128 of 255.
    expected = np.where(mask == 2, 255, mask)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected)


def test_a_choice_of_classes_does_not(ask, mask):
    asked, answer = ask("/v1/segment?format=png&classes=1")
    assert asked == {"classes"}
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), np.where(mask == 1, 1, 255))


def test_several_images_and_large_ones_that_go_in_tiles(ask, encoded):
    wide = np.zeros((40, 2100, 3), np.uint8)
    wide[:, 700:, 1] = 9
    files = [("image", (f"{index}.png", encoded(wide), "image/png")) for index in range(2)]
    asked, answer = ask("/v1/segment?format=raw", files=files)
    assert asked == {"classes"}
    assert answer.headers["content-type"] == "application/zip"
    asked, answer = ask("/v1/segment?format=raw", files=files[:1])
    assert asked == {"classes"}
    expected = np.repeat((np.arange(2100) >= 700)[None], 40, axis=0).astype(np.uint8)
    assert answer.content == expected.tobytes()


@pytest.mark.parametrize(
    ("outputs", "expected"), [(["classes"], "classes"), (["confidence"], "confidence"), ([], "confidence")]
)
def test_kserve_asks_for_the_outputs_that_are_named(ask, photo, outputs, expected):
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, *photo.shape], "data": photo.ravel().tolist()}
    body = {"inputs": [tensor], "outputs": [{"name": name} for name in outputs]}
    asked, answer = ask("/v2/models/colors/infer", content=json.dumps(body))
    assert asked == {expected}
    assert [output["name"] for output in answer.json()["outputs"]] == (outputs or ["classes", "confidence"])


def test_a_batch_gets_confidence_when_one_of_it_needs_it():
    engine = Telling()
    batcher = Batcher(max_batch=4)
    queue = batcher.queue(engine, "colors")
    try:
        images = [np.full((4, 6, 3), value, np.uint8) for value in (7, 8, 9)]
        hold: Future[None] = Future()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(batcher.run_exclusive(hold.result).result)
            futures = [queue.submit(image, confidence=image[0, 0, 0] == 8) for image in images]
            hold.set_result(None)
            waiting.result(10)
        runs = [future.result(10) for future in futures]
        assert [run.batch for run in runs] == [3, 3, 3]
        assert engine.asked == ["confidence"]
        assert [run.confidence[0, 0] for run in runs] == [7, 8, 9]
        alone = queue.submit(images[0], confidence=False).result(10)
        assert alone.confidence is None
        assert engine.asked == ["confidence", "classes"]
    finally:
        batcher.close()
