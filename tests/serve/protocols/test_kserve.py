import json
import re
import sys
import time

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from support.color_engine import ColorEngine
from support.pauses import longest_pause
from tritonclient.utils import InferenceServerException

from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.protocols import kserve_tensors
from semseg_app.serve.protocols.kserve_tensors import read_request


@pytest.fixture(scope="module")
def url(running):
    with running(create_app(ColorEngine(), ServeConfig(demo=False, max_pixels=100_000))) as url:
        deadline = time.monotonic() + 30
        while httpx.get(f"{url}/health/ready").status_code == 503 and time.monotonic() < deadline:
            time.sleep(0.05)
        yield url


@pytest.fixture
def client(url):
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def images(photo):
    return np.stack([photo, photo[::-1]])


def asked(images: np.ndarray, binary: bool) -> triton.InferInput:
    given = triton.InferInput("images", images.shape, "UINT8")
    given.set_data_from_numpy(images, binary_data=binary)
    return given


def test_tritonclient_finds_server_and_model(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colors")
    assert client.is_model_ready("colors", "1")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("colors")
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert [output["name"] for output in metadata["outputs"]] == ["classes", "confidence"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tritonclient_infers(client, images, mask, binary_in, binary_out):
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("confidence", "classes")]
    answer = client.infer("colors", [asked(images, binary_in)], outputs=outputs, request_id="mine", model_version="1")
    np.testing.assert_array_equal(answer.as_numpy("classes"), np.stack([mask, mask[::-1]]))
    np.testing.assert_array_equal(answer.as_numpy("confidence"), images.max(axis=3))
    assert answer.get_response()["id"] == "mine"
    assert [output["name"] for output in answer.get_response()["outputs"]] == ["confidence", "classes"]


def test_all_outputs_by_default(client, images):
    answer = client.infer("colors", [asked(images, True)])
    assert answer.as_numpy("classes").shape == answer.as_numpy("confidence").shape == (2, 40, 60)


def test_tritonclient_reads_our_refusals(client, images):
    with pytest.raises(InferenceServerException, match="unknown model"):
        client.infer("other", [asked(images, True)])
    with pytest.raises(InferenceServerException, match="unknown output 'logits'; choose"):
        client.infer("colors", [asked(images, True)], outputs=[triton.InferRequestedOutput("logits")])
    with pytest.raises(InferenceServerException, match=r"above the limit of 0\.1 million"):
        client.infer("colors", [asked(np.zeros((1, 400, 400, 3), np.uint8), True)])
    with pytest.raises(InferenceServerException, match="17 images in one batch"):
        client.infer("colors", [asked(np.zeros((17, 4, 4, 3), np.uint8), True)])
    with pytest.raises(InferenceServerException, match="compressed bodies are not supported"):
        client.infer("colors", [asked(images, True)], request_compression_algorithm="gzip")


GOOD = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 3]}
LENGTH = "Inference-Header-Content-Length"


def test_nulls_count_as_left_out(url):
    """Clients with typed requests (Java, C#, Go) write out every field."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [200, 0, 0]}
    answers = [
        httpx.post(f"{url}/v2/models/colors/infer", json=body).json()
        for body in (
            {"inputs": [tensor]},
            {"id": None, "parameters": None, "outputs": None, "inputs": [tensor | {"parameters": None}]},
            {"inputs": [tensor], "outputs": [{"name": name, "parameters": None} for name in ("classes", "confidence")]},
        )
    ]
    assert answers[0]["outputs"][0]["data"] == [0]
    assert answers[1:] == answers[:1] * 2


@pytest.mark.parametrize(
    ("inputs", "headers", "words"),
    [
        ([], {}, "inputs: send exactly one"),
        ([GOOD, GOOD], {}, "inputs: send exactly one"),
        ([GOOD | {"datatype": "FP32"}], {}, r"must be UINT8 \[N, H, W, 3\]; this is FP32"),
        ([GOOD | {"shape": [1, 1, 1, 4]}], {}, "must be UINT8"),
        ([GOOD | {"shape": [1, 0, 1, 3]}], {}, "must be UINT8"),
        ([GOOD | {"shape": [1, -1, -1, 3]}], {}, "must be UINT8"),
        ([GOOD | {"data": [1, 2]}], {}, "data must be 3 whole numbers from 0 to 255"),
        ([GOOD | {"data": [1, 2, 256]}], {}, "whole numbers"),
        ([GOOD | {"data": [1, 2, 2.5]}], {}, "whole numbers"),
        ([GOOD | {"data": [[1], [2, 3]]}], {}, "whole numbers"),
        ([GOOD | {"data": [[1, 2], 3]}], {}, "whole numbers"),
        ([GOOD | {"data": [1, [2], 3]}], {}, "whole numbers"),
        ([GOOD | {"data": [[], [1, 2, 3]]}], {}, "whole numbers"),
        ([GOOD | {"data": ["a", "b", "c"]}], {}, "whole numbers"),
        ([GOOD | {"data": [[1, 2, 3], {}]}], {}, "whole numbers"),
        ([GOOD | {"data": [1, 2, -3]}], {}, "whole numbers"),
        ([GOOD | {"data": []}], {}, "whole numbers"),
        ([GOOD | {"data": [[]]}], {}, "whole numbers"),
        ([GOOD | {"data": [None, None, None]}], {}, "whole numbers"),
        ([GOOD | {"data": None}], {}, "neither data nor binary_data_size"),
        ([GOOD | {"parameters": {"binary_data_size": 3}}], {}, "binary_data_size says 3, 0 came"),
        ([GOOD | {"parameters": {"binary_data_size": "x"}}], {}, "binary_data_size says 'x'"),
        ([GOOD], {LENGTH: "-1"}, "not a number"),
        ([GOOD], {LENGTH: "9999"}, "and the body has"),
        ([GOOD], {LENGTH: "5"}, "Invalid JSON"),
        ("x", {}, "inputs: "),
    ],
)
def test_bad_tensors_get_one_clear_line(url, inputs, headers, words):
    answer = httpx.post(f"{url}/v2/models/colors/infer", content=json.dumps({"inputs": inputs}), headers=headers)
    assert answer.status_code == 400, answer.text
    assert re.search(words, answer.json()["error"])


@pytest.mark.parametrize(
    "tensor",
    [
        GOOD | {"shape": [1, 10**5000, 1, 3]},
        GOOD | {"shape": [10**2000, 10**2000, 10**2000, 3]},
        GOOD | {"shape": [2**31, 1, 1, 3]},
        GOOD | {"shape": [1, 1, 1, -(10**2000)]},
        GOOD | {"data": [10**5000, 2, 3]},
        GOOD | {"data": [10**400, 0.5, 3]},
        GOOD | {"parameters": {"binary_data_size": 10**4000}},
    ],
)
def test_numbers_that_overflow_are_refused_in_one_line(url, tensor):
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        body = json.dumps({"inputs": [tensor]})
    finally:
        sys.set_int_max_str_digits(digits)
    answer = httpx.post(f"{url}/v2/models/colors/infer", content=body)
    assert answer.status_code == (422 if tensor["data"] == GOOD["data"] and "parameters" not in tensor else 400)
    assert "\n" not in answer.json()["error"]


def test_numbers_elsewhere_are_refused_and_not_left_unread():
    """Neither is more than one `data`, nor what only looks like JSON."""

    def read(tensor: str, more: str = "", behind: bytes = b"") -> bytes:
        tensor = f'{{"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], {tensor}}}'
        head = f'{{"id": "data", "inputs": [{tensor}]{more}}}'.encode()
        return read_request(head + behind, str(len(head))).images.tobytes()

    def refusal(*arguments: object) -> str:
        with pytest.raises(HTTPException) as refused:
            read(*arguments)
        assert refused.value.status_code == 400
        return refused.value.detail

    good = '"data": [1, 2, 3]'
    binary = '"parameters": {"binary_data_size": 3}'
    assert read(good) == read(good, ', "parameters": {"data": 1}') == b"\1\2\3"
    assert read('"d\\u0061ta": [1, 2, 3]') == b"\1\2\3"
    assert read(binary, "", b"abc") == read(f'{binary}, "data": []', "", b"abc") == b"abc"
    for odd in ("[this is [not] JSON \0]", "[1 2]", "[x]"):
        assert "Invalid JSON" in refusal(good, f', "parameters": {{"data": {odd}}}')
        assert "also elsewhere" in refusal(f'"parameters": {{"data": {odd}}}, {good}')
    assert "also elsewhere" in refusal(f'"data": [4, 5, 6], {good}')
    assert "also elsewhere" in refusal('"parameters": {"binary_data_size": {"data": [1]}}')
    assert "both data and binary_data_size" in refusal(f"{good}, {binary}", "", b"abc")
    assert "both data and binary_data_size" in refusal(f'{binary}, "data": [not JSON]', "", b"abc")


def test_a_photo_as_json_dumps_writes_it(running, mask, photo):
    """Of 720 x 640 pixels, in nested lists: above 5 MB."""
    large, expected = np.kron(photo, np.ones((16, 12, 1), np.uint8)), np.kron(mask, np.ones((16, 12), np.uint8))
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 640, 720, 3], "data": large[None].tolist()}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "classes"}]})
    assert len(body) > 5_000_000
    with running(create_app(ColorEngine(), ServeConfig(demo=False))) as url:
        answer = httpx.post(f"{url}/v2/models/colors/infer", content=body, timeout=30)
    assert answer.status_code == 200, answer.text
    np.testing.assert_array_equal(np.reshape(answer.json()["outputs"][0]["data"], (640, 720)), expected)


def test_many_numbers_in_json_are_refused(url):
    content = '{"inputs": [{"data": [' + "1," * 10_000_000
    answer = httpx.post(f"{url}/v2/models/colors/infer", content=content)
    assert (answer.status_code, answer.json()["error"][:32]) == (413, "the JSON part is above 18 MiB; s")


def test_options_of_other_addresses_are_refused(url):
    def ask(query: str) -> httpx.Response:
        return httpx.post(f"{url}/v2/models/colors/infer?{query}", content=json.dumps({"inputs": [GOOD]}))

    for query in ("threshold=0.5", "treshold=0.5", "format=json"):
        assert ask(query).status_code == 422, query
        assert "are those of /v1/segment" in ask(query).json()["error"]
    assert ask("subscription-key=1").json() == ask("").json()
    assert "this address takes no options" in httpx.get(f"{url}/v1/models?modle=x").json()["error"]


def expected_numbers(text: str, size: int) -> np.ndarray | None:
    """What the standard library and numpy make of `data`; None = it is not that many bytes in equal lists."""
    try:
        array = np.array(json.loads(text))
    except ValueError:  # no JSON, or lists of different lengths
        return None
    right = "-" not in text and array.ndim > 0 and array.dtype.kind == "i" and array.size == size
    return array.ravel() if right and 0 <= array.min() <= array.max() <= 255 else None


def read_numbers(text: str, size: int) -> np.ndarray | None:
    """What the server makes of `data`; None = it refuses it."""
    body = f'{{"inputs": [{{"name": "images", "data": {text}, "datatype": "UINT8", "shape": [{size // 3}, 1, 1, 3]}}]}}'
    try:
        return read_request(body.encode(), None).images.ravel()
    except HTTPException:
        return None


nested = st.sampled_from([(12,), (4, 3), (2, 6), (2, 2, 1, 3), (1, 12), (12, 1)]).map(
    lambda shape: json.dumps((np.arange(12) * 23).reshape(shape).tolist())
)
edits = st.lists(
    st.tuples(st.integers(0, 90), st.integers(0, 3), st.sampled_from([*',[]0129 -.e"}', "", "\n "])), max_size=3
)


@pytest.mark.parametrize("piece", [1, 7, 2**15])
@given(text=nested, edits=edits)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_numbers_in_json_are_read_as_by_the_standard_library(piece, text, edits):
    """Also where commas, brackets and digits are added, replaced or missing, at the border of two pieces too."""
    for at, dropped, added in edits:
        text = text[:at] + added + text[at + dropped :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kserve_tensors, "PIECE", piece)
        read, expected = read_numbers(text, 12), expected_numbers(text, 12)
    assert (read is None) == (expected is None), text
    np.testing.assert_array_equal(read, expected)


def test_numbers_are_read_and_written_in_pieces(monkeypatch):
    """Python's lock is held for each piece; for a whole photo, it would keep all other requests waiting."""
    images = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": images.shape, "data": images.tolist()}
    sizes = []
    monkeypatch.setattr(kserve_tensors, "from_json", lambda text: sizes.append(len(text)) or from_json(text))
    np.testing.assert_array_equal(read_request(json.dumps({"inputs": [tensor]}).encode(), None).images, images)
    assert len(sizes) > 20
    assert max(sizes) < kserve_tensors.PIECE + 100
    written = [text.count(b",") + 1 for text in kserve_tensors._number_texts(images)]
    assert (sum(written), max(written)) == (images.size, kserve_tensors.PIECE)


@pytest.mark.slow
def test_a_large_json_body_does_not_hold_up_the_others():
    """A fifth of what the standard library holds Python's lock for, to read and to write the same."""
    images = np.random.default_rng(0).integers(0, 256, (1, 1024, 1024, 3), np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": images.shape, "data": images.tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()

    def read_and_write() -> None:
        asked = read_request(body, None)
        np.testing.assert_array_equal(asked.images, images)
        kserve_tensors.written(asked, "model", "1", {"classes": images[..., 0], "confidence": images[..., 1]})

    whole = longest_pause(lambda: json.loads(body))
    pieces = min(longest_pause(read_and_write) for _ in range(2))
    assert pieces < whole / 5


def test_json_of_very_many_lists_is_refused_at_once(url):
    lists = b"[]," * 200_000
    for path, body in (
        ("/v2/models/colors/infer", b'{"inputs": [], "parameters": {"x": [' + lists + b"1]}}"),
        ("/hf", b'{"inputs": "", "x": [' + lists + b"1]}"),
        ("/label-studio/predict", b'{"label_config": "", "tasks": [' + lists + b"1]}"),
    ):
        answer = httpx.post(url + path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413, path
        assert "more than 100000 lists" in answer.json()["error"]


def test_json_of_very_many_keys_is_refused_at_once(url):
    def keys(count: int) -> bytes:
        return b",".join(b'"%d": 1' % number for number in range(count))

    for path, body, most in (
        ("/v2/models/colors/infer", b'{"inputs": [], "parameters": {%s}}' % keys(1001), 1000),
        ("/hf", b'{"inputs": "", %s}' % keys(1001), 1000),
        ("/label-studio/predict", b'{"label_config": "", "tasks": [{"data": {%s}}]}' % keys(200_001), 200_000),
    ):
        answer = httpx.post(url + path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413, path
        assert f" {most} keys" in answer.json()["error"]


@pytest.mark.parametrize("name", ["inputs", "outputs"])
def test_the_first_wrong_part_is_the_last_one_read(name):
    """A description of each of 99,000 would keep all other requests waiting for seconds."""
    with pytest.raises(HTTPException) as refused:
        read_request(json.dumps({"inputs": [GOOD], name: [{}] * 99_000}).encode(), None)
    assert refused.value.__context__.error_count() < 5
    with pytest.raises(HTTPException) as refused:
        read_request(json.dumps({"inputs": [GOOD | {"shape": ["a"] * 99_000}]}).encode(), None)
    assert refused.value.__context__.error_count() == 1
