"""Every interface takes the same way from bytes to class map: one function admits, one decodes, /metrics sees all."""

import asyncio
import base64
import io
import sys
import time

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from gradio_client import Client, handle_file
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from support.color_engine import ColorEngine

from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.scheduling.admission import Admission
from semseg_app.serve.scheduling.decoding import decode

pytest.importorskip("pyvips")

LABELS = """<View><Image name="img" value="$photo"/>
<BrushLabels name="tag" toName="img"><Label value="red"/></BrushLabels></View>"""


@pytest.fixture
def counted(monkeypatch):
    """Calls of the two functions, wherever the server's modules refer to them."""
    calls = {"admit": 0, "decode": 0}
    admit = Admission.admit

    def count_admit(admission, model, who):
        calls["admit"] += 1
        return admit(admission, model, who)

    def count_decode(*arguments, **options):
        calls["decode"] += 1
        return decode(*arguments, **options)

    monkeypatch.setattr(Admission, "admit", count_admit)
    for name, module in list(sys.modules.items()):
        if name.startswith("semseg_app.serve") and vars(module).get("decode") is decode:
            monkeypatch.setattr(module, "decode", count_decode)
    return calls


@pytest.fixture
def url(running):
    # Inside a loop, because Gradio makes (and never closes) one of its own for each lock that it creates outside.
    async def build() -> FastAPI:
        return create_app(ColorEngine(), ServeConfig())

    with running(asyncio.run(build())) as url:
        yield url


def ask_api(url, data, path):
    answer = httpx.post(f"{url}/v1/segment", files={"image": data}, timeout=30)
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def ask_hugging_face(url, data, path):
    answer = httpx.post(f"{url}/hf", content=data, headers={"Content-Type": "image/png"}, timeout=30)
    mask = np.full((40, 60), 255)
    for segment in answer.json():
        inside = np.asarray(Image.open(io.BytesIO(base64.b64decode(segment["mask"])))) > 0
        mask[inside] = ColorEngine.labels.classes.index(segment["label"])
    return mask


def ask_kserve(url, data, path):
    image = np.asarray(Image.open(path))[None]
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(image.shape), "data": image.ravel().tolist()}
    answer = httpx.post(f"{url}/v2/models/colors/infer", json={"inputs": [tensor]}, timeout=30).json()
    (classes,) = (output for output in answer["outputs"] if output["name"] == "classes")
    return np.reshape(classes["data"], classes["shape"])[0]


def ask_label_studio(url, data, path):
    task = {"id": 1, "data": {"photo": "data:image/png;base64," + base64.b64encode(data).decode()}}
    body = {"tasks": [task], "label_config": LABELS}
    (result,) = httpx.post(f"{url}/label-studio/predict", json=body, timeout=30).json()["results"]
    assert [region["value"]["brushlabels"] for region in result["result"]] == [["red"]]


def ask_page(url, data, path):
    client = Client(url, verbose=False, httpx_kwargs={"timeout": 120})
    summary = client.predict(handle_file(path), "colors", api_name="/segment")[2]
    client.close()
    assert [entry["name"] for entry in summary["classes"]] == ["red", "green", "<blue>"]


def ask_job(url, data, path):
    headers = {"Content-Type": "image/png"}
    location = url + httpx.post(f"{url}/v1/jobs", content=data, headers=headers, timeout=30).headers["location"]
    deadline = time.monotonic() + 20
    while httpx.get(location).json()["status"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return np.asarray(Image.open(io.BytesIO(httpx.get(f"{location}/result").content)))


CALLERS = {
    "api": ask_api,
    "huggingface": ask_hugging_face,
    "kserve": ask_kserve,
    "label-studio": ask_label_studio,
    "page": ask_page,
    "job": ask_job,
}


def series(url: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
        for sample in family.samples
    }


def test_six_interfaces_one_way(url, counted, encoded, photo, mask, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(photo))
    for number, (caller, ask) in enumerate(CALLERS.items(), 1):
        answer = ask(url, path.read_bytes(), path)
        if answer is not None:
            np.testing.assert_array_equal(answer, mask)
        assert counted == {"admit": number, "decode": number}, caller
        values = series(url)
        assert values["semseg_admitted_total", caller, "colors"] == 1
        if caller != "job":  # its tiles are counted as calls of the engine
            assert values["semseg_stage_seconds_count", "colors", "encode"] == number
        assert values["semseg_batch_images_sum", "colors"] == number
    assert values["semseg_requests_inside", "colors"] == values["semseg_jobs_unfinished",] == 0
