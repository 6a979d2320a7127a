"""Several models, tiles, request slots, deadlines and hot reload, through HTTP where a client can see them."""

import contextlib
import gc
import http.client as http_client
import io
import logging
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from support.color_engine import ColorEngine

from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Prediction
from semseg_app.inference.predictor import Predictor
from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.served_model import ServedModel

PNG = {"Content-Type": "image/png"}
ONE_CLIENT = ServeConfig(demo=False, client_share=1)
"""The clients of these tests have one address."""


@pytest.fixture(autouse=True, params=[2, 8], ids=["two cores", "eight cores"])
def on_a_machine_of(request, monkeypatch):
    """Who decodes and encodes depends on how many cores there are; what comes of it does not."""
    monkeypatch.setattr("semseg_app.serve.scheduling.registry.cores", lambda: request.param)


def constant(number: int, seconds: float = 0.0) -> ColorEngine:
    """An engine that says class `number` of every pixel."""
    engine = ColorEngine(seconds)
    infer = engine.infer

    def always(images):
        confidence = infer(images).confidence
        return Prediction(np.full_like(confidence, number), confidence)

    engine.infer = always
    return engine


def only_class(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    (value,) = np.unique(np.asarray(Image.open(io.BytesIO(answer.content))))
    return int(value)


def series(http: httpx.Client | TestClient) -> dict[tuple[str, ...], float]:
    """/metrics, as a client of Prometheus reads it: (name, label values by label name) -> value."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def wait_until(true, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_each_model_answers_under_its_name(encoded, photo):
    models = Models([ServedModel(constant(2)), ServedModel(constant(1), "second")], ServeConfig(demo=False))
    with TestClient(create_app(models)) as client:

        def ask(query: str) -> httpx.Response:
            return client.post(f"/v1/segment{query}", content=encoded(photo), headers=PNG)

        assert [only_class(ask(query)) for query in ("", "?model=colors", "?model=second")] == [2, 2, 1]
        unknown = ask("?model=third")
        assert (unknown.status_code, unknown.json()) == (
            404,
            {"error": "unknown model 'third'; available: colors, second"},
        )
        assert [model["name"] for model in client.get("/v1/models").json()["models"]] == ["colors", "second"]
    with pytest.raises(UserError, match="two models have one name; give each its own with --name"):
        Models([ServedModel(constant(1)), ServedModel(constant(2))])
    with pytest.raises(UserError, match="'a/b' holds a slash, where addresses end; give another --name"):
        Models([ServedModel(constant(1), "a/b")])


def test_what_is_counted(encoded, photo):
    with TestClient(create_app(ColorEngine(), ServeConfig(demo=False))) as client:
        for _ in range(3):
            client.post("/v1/segment", content=encoded(photo), headers=PNG)
        client.post("/v1/segment", content=b"no image", headers=PNG)
        client.get("/somewhere/else")
        values = series(client)
    assert values["semseg_requests_total", "/v1/segment", "200"] == 3
    assert values["semseg_requests_total", "/v1/segment", "415"] == 1
    assert values["semseg_requests_total", "other", "404"] == 1
    assert values["semseg_request_seconds_count", "/v1/segment"] == 4
    counts = {stage: values["semseg_stage_seconds_count", "colors", stage] for stage in ("wait", "infer", "encode")}
    assert counts == {"wait": 3, "infer": 3, "encode": 3}
    assert values["semseg_stage_seconds_count", "colors", "decode"] == 4
    assert 0 < values["semseg_stage_seconds_sum", "colors", "decode"] < 1
    assert values["semseg_batch_images_sum", "colors"] == 3
    assert (values["semseg_waiting_images", "colors"], values["semseg_requests_inside", "colors"]) == (0, 0)
    assert values["semseg_model", "cpu", "fake", "colors", "fp32"] == 1
    assert values["process_resident_memory_bytes",] > 1e7


def test_large_images_go_in_tiles_and_let_others_through(encoded, photo, mask, monkeypatch):
    """Also: their answer is that of the whole image, whatever else the engine does in between."""
    engine = ColorEngine(seconds=0.02)
    order = []
    infer = engine.infer
    engine.infer = lambda images: (order.append(images.shape), infer(images))[1]
    large = np.random.default_rng(0).integers(0, 255, (1500, 3000, 3), np.uint8)
    with TestClient(create_app(engine, ServeConfig(demo=False))) as client, ThreadPoolExecutor(1) as pool:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        order.clear()
        asked = pool.submit(client.post, "/v1/segment", content=encoded(large, compress_level=0), headers=PNG)
        wait_until(lambda: len(order) >= 2)
        answer = client.post("/v1/segment", content=encoded(photo), headers=PNG)
        assert not asked.done()
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), mask)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(asked.result().content))), large.argmax(axis=2))
    small = order.index((1, 40, 60, 3))
    assert 2 <= small < len(order) - 2
    assert all(max(shape[1:3]) <= 1024 for shape in order)


def test_a_panorama_of_few_pixels_has_one_answer_in_every_format(encoded):
    """The size of what the engine gets decides its answer, as the context of a pixel decides that of a network."""

    class Sized(ColorEngine):
        def infer(self, images: np.ndarray) -> Prediction:
            classes, confidence = super().infer(images)
            return Prediction(np.full_like(classes, images.shape[2] > 1024), confidence)

    photo = np.zeros((100, 2000, 3), np.uint8)
    expected = Predictor(Sized()).class_map(photo)
    assert not expected.any(), "no tile is wider"
    with TestClient(create_app(Sized(), ServeConfig(demo=False))) as client:

        def segmented(options: str) -> httpx.Response:
            return client.post(f"/v1/segment?{options}", files={"image": encoded(photo)})

        assert segmented("format=raw").content == expected.tobytes()
        for form in ("json", "rle"):
            (found,) = segmented(f"format={form}").json()["classes"]
            assert (found["index"], found["area"]) == (0, 200_000), form


def test_beyond_its_slots_a_model_refuses_before_it_reads(running, encoded, photo):
    engine, gate = ColorEngine(), threading.Event()
    infer = engine.infer
    models = Models(
        [ServedModel(engine), ServedModel(ColorEngine(), "free")], ONE_CLIENT.model_copy(update={"max_requests": 4})
    )
    with running(create_app(models)) as url, httpx.Client(base_url=url, timeout=60) as http:
        data = encoded(photo)
        wait_until(lambda: http.get("/health/ready").status_code == 200)
        engine.infer = lambda images: (gate.wait(20), infer(images))[1]
        with ThreadPoolExecutor(24) as pool:
            asked = [pool.submit(http.post, "/v1/segment", content=data, headers=PNG) for _ in range(4)]
            wait_until(lambda: series(http)["semseg_requests_inside", "colors"] == 4)
            refused, slowest = [], 0.0
            for _ in range(20):
                start = time.perf_counter()
                refused.append(http.post("/v1/segment", content=data, headers=PNG))
                slowest = max(slowest, time.perf_counter() - start)
            wrong = [http.post(f"/v1/segment?{query}", content=data).status_code for query in ("model=x", "siez=9")]
            free = pool.submit(http.post, "/v1/segment?model=free", content=data, headers=PNG)
            gate.set()
        assert {answer.status_code for answer in refused} == {429}
        assert slowest < 0.05, slowest
        assert refused[0].headers["retry-after"].isdecimal()
        assert refused[0].headers["x-content-type-options"] == "nosniff"
        assert len({answer.headers["x-request-id"] for answer in refused}) == 20
        assert wrong == [404, 422]
        assert "too many requests are waiting; try again in " in refused[0].json()["error"]
        assert free.result().status_code == 200
        assert [request.result().status_code for request in asked] == [200] * 4
        assert series(http)["semseg_rejected_total", "colors", "overloaded"] == 20
        assert series(http)["semseg_requests_total", "/v1/segment", "429"] == 20


def test_who_would_wait_in_vain_is_refused_at_once(running, encoded, photo):
    """An image takes 0.2 s and may take 0.9: of twelve at once four can be answered in time, and none is late."""
    models = Models([ServedModel(ColorEngine(seconds=0.2))], ONE_CLIENT.model_copy(update={"timeout_s": 0.9}))
    with running(create_app(models)) as url, httpx.Client(base_url=url, timeout=60) as http:
        wait_until(lambda: http.get("/health/ready").status_code == 200)
        with ThreadPoolExecutor(12) as pool:
            post = partial(http.post, "/v1/segment", content=encoded(photo), headers=PNG)
            statuses = [asked.result().status_code for asked in [pool.submit(post) for _ in range(12)]]
        assert set(statuses) == {200, 429}
        assert 1 <= statuses.count(200) <= 4
        assert post().status_code == 200


def test_too_late_is_504_and_is_not_worked_for(encoded, photo):
    gate = threading.Event()
    engine = ColorEngine()
    calls = []
    infer = engine.infer
    with TestClient(create_app(engine, ServeConfig(timeout_s=1, demo=False))) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        engine.infer = lambda images: (calls.append(1), gate.wait(10), infer(images))[2]
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(client.post, "/v1/segment", content=encoded(photo), headers=PNG) for _ in range(3)]
            answers = [request.result() for request in asked]
        gate.set()
        assert [answer.status_code for answer in answers] == [504] * 3
        assert answers[0].json() == {"error": "no answer within 1 s; try again later"}
        assert client.post("/v1/segment", content=encoded(photo), headers=PNG).status_code == 200
        assert len(calls) == 2  # the one that was in the engine, and the last
        assert series(client)["semseg_rejected_total", "colors", "deadline"] == 3


def test_nobody_works_for_a_client_that_went_away(running, encoded, photo, caplog):
    gate = threading.Event()
    engine = ColorEngine()
    calls = []
    infer = engine.infer
    with running(create_app(engine, ServeConfig(demo=False))) as url, httpx.Client(base_url=url, timeout=60) as http:
        wait_until(lambda: http.get("/health/ready").status_code == 200)
        engine.infer = lambda images: (calls.append(1), gate.wait(10), infer(images))[2]
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(http.post, "/v1/segment", content=encoded(photo), headers=PNG)
            wait_until(lambda: len(calls) == 1)
            for _ in range(3):
                with contextlib.suppress(httpx.ReadTimeout):
                    httpx.post(f"{url}/v1/segment", content=encoded(photo), headers=PNG, timeout=0.1)
            wait_until(lambda: series(http).get(("semseg_rejected_total", "colors", "disconnected")) == 3)
            values = series(http)
            assert values["semseg_waiting_images", "colors"] == 0
            assert values["semseg_requests_inside", "colors"] == 1
            assert values["semseg_requests_total", "/v1/segment", "499"] == 3
            gate.set()
            assert first.result().status_code == 200
        assert http.post("/v1/segment", content=encoded(photo), headers=PNG).status_code == 200
    assert len(calls) == 2
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_large_image_whose_client_went_away_stops(running, encoded):
    engine, gate = ColorEngine(), threading.Event()
    calls = []
    infer = engine.infer
    large = encoded(Image.new("1", (8000, 2000)))  # 24 tiles
    with running(create_app(engine, ServeConfig(demo=False))) as url, httpx.Client(base_url=url, timeout=60) as http:
        wait_until(lambda: http.get("/health/ready").status_code == 200)
        engine.infer = lambda images: (calls.append(1), len(calls) < 3 or gate.wait(20), infer(images))[2]
        leaving = http_client.HTTPConnection(url.removeprefix("http://"))
        leaving.request("POST", "/v1/segment", large, PNG)
        wait_until(lambda: len(calls) == 3)
        leaving.close()
        wait_until(lambda: series(http)["semseg_requests_inside", "colors"] == 0)
        gate.set()
        small = http.post("/v1/segment", content=encoded(Image.new("1", (9, 9))), headers=PNG)
        assert small.status_code == 200
        assert 4 <= len(calls) <= 5  # a tile may have been in the queue


def test_reload_loses_no_request_and_each_answer_is_of_one_engine(running, encoded, caplog):
    engines = [constant(number % 3, seconds=0.002) for number in range(8)]
    left = iter(engines[1:])
    models = Models([ServedModel(engines[0], reopen=lambda: next(left))], ServeConfig(demo=False))
    app = create_app(models)
    app.post("/reload")(models.reload_all)
    data = encoded(Image.new("RGB", (2100, 40)))  # three tiles
    stop = threading.Event()
    with running(app) as url, httpx.Client(base_url=url, timeout=60) as http:

        def ask() -> list[int]:
            seen = []
            while not stop.is_set():
                seen.append(only_class(http.post("/v1/segment", content=data, headers=PNG)))
            return seen

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            for _ in range(7):
                http.post("/reload")
                time.sleep(0.1)
            stop.set()
            seen = [value for asked in asking for value in asked.result()]
        assert set(seen) == {0, 1, 2}
        # What cannot be loaded, or fails its warm-up, does not replace what works.
        models.get()._reopen = lambda: constant(3)
        http.post("/reload")
        models.get()._reopen = None
        http.post("/reload")
        assert only_class(http.post("/v1/segment", content=data, headers=PNG)) == 7 % 3
        values = series(http)
    assert values["semseg_reloads_total", "colors", "replaced"] == 7
    assert values["semseg_reloads_total", "colors", "failed"] == 1
    assert "which the model does not have" in caplog.text
    assert "was not loaded from a folder; restart the server" in caplog.text


def test_decoded_images_stay_within_memory(running, encoded):
    """Twelve images of which three fit into memory: never more are decoded at once, and all are answered."""
    pixels = 1_000_000
    noise = np.random.default_rng(0).integers(0, 200, (1000, 1000, 3), np.uint8)
    noise[..., 0] = 255
    data = encoded(Image.fromarray(noise))  # too many bytes for the thread of the device to decode them itself
    inside = most = 0
    counting = threading.Lock()
    full = threading.Event()
    engine = ColorEngine()
    infer = engine.infer

    def when_full(images):
        assert full.wait(20)
        return infer(images)

    models = Models([ServedModel(engine)], ServeConfig(max_pixels=pixels, demo=False))
    with running(create_app(models)) as url, httpx.Client(base_url=url, timeout=60) as http:
        wait_until(lambda: http.get("/health/ready").status_code == 200)
        engine.infer = when_full
        memory = models._workers.memory
        memory.pixels = 3 * pixels
        reserve, release = memory.reserve, memory.release

        def count(change: int) -> None:
            nonlocal inside, most
            with counting:
                inside += change
                most = max(most, inside)
                if inside == 3 * pixels:
                    full.set()

        def count_reserve(pixels: int, wait: bool) -> None:
            reserve(pixels, wait)
            count(pixels)

        def count_release(pixels: int) -> None:
            count(-pixels)
            release(pixels)

        memory.reserve, memory.release = count_reserve, count_release
        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(http.post, "/v1/segment", content=data, headers=PNG) for _ in range(12)]
            assert [only_class(request.result()) for request in asked] == [0] * 12
    assert inside == 0
    assert most == 3 * pixels


def test_a_decoded_image_is_let_go_of_at_once(running, encoded):
    """Not when the garbage collector comes by: it counts objects, and a server would fill its memory meanwhile."""
    engine = ColorEngine(seconds=0.002)
    seen = []
    infer = engine.infer
    with running(create_app(engine, ServeConfig(demo=False))) as url, httpx.Client(base_url=url, timeout=60) as http:
        wait_until(lambda: http.get("/health/ready").status_code == 200)
        engine.infer = lambda images: (seen.append(weakref.ref(images.base)), infer(images))[1]
        gc.collect()
        gc.disable()
        try:
            for format in ("png", "polygons"):
                post = partial(http.post, f"/v1/segment?format={format}", content=encoded(Image.new("RGB", (90, 60))))
                with ThreadPoolExecutor(8) as pool:
                    asked = [pool.submit(post, headers=PNG) for _ in range(24)]
                    assert {request.result().status_code for request in asked} == {200}
                for _ in range(4):
                    post(headers=PNG)
            assert len(seen) == 2 * 28
            wait_until(lambda: sum(image() is not None for image in seen) <= 1)
        finally:
            gc.enable()
