import base64

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig


@pytest.fixture(scope="module")
def url(running):
    from support.color_engine import ColorEngine

    with running(create_app(ColorEngine(), ServeConfig(demo=False))) as url:
        yield url


def test_inference_client_works_unchanged(url, encoded, photo, mask, tmp_path):
    (tmp_path / "photo.png").write_bytes(encoded(photo))
    for model in (f"{url}/hf", f"{url}/hf/colors"):
        for image in (encoded(photo), tmp_path / "photo.png"):
            found = InferenceClient(model=model, token="none").image_segmentation(image)
            assert [(one.label, one.score) for one in found] == [
                ("red", 1.0),
                ("green", round(200 / 255, 6)),
                ("<blue>", round(128 / 255, 6)),
            ]
            for index, one in enumerate(found):
                assert one.mask.mode == "L"
                np.testing.assert_array_equal(np.asarray(one.mask), np.where(mask == index, 255, 0))


def test_parameters(url, encoded, photo):
    client = InferenceClient(model=f"{url}/hf", token="none")
    labels = [one.label for one in client.image_segmentation(encoded(photo), threshold=0.6, subtask="semantic")]
    assert labels == ["red", "green"]
    assert [one.label for one in client.image_segmentation(encoded(photo), mask_threshold=0.9)] == ["red"]
    with pytest.raises(HfHubHTTPError, match="422") as refused:
        client.image_segmentation(encoded(photo), subtask="panoptic")
    assert refused.value.response.json() == {"error": "parameters.subtask: Input should be 'semantic'"}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "Invalid JSON"),
        (b"[]", 422, "the body: "),
        (b'{"inputs": "\\u00e9"}', 422, "not valid base64"),
        (b'{"inputs": "https://example.com/photo.jpg"}', 422, "an address, which is not fetched"),
        (b'{"inputs": "data:image/png,abc"}', 422, "not valid base64"),
        (b'{"inputs": "abc!"}', 422, "not valid base64"),
        (b'{"inputs": "abcde"}', 422, "not valid base64"),
        (b'{"inputs": ""}', 400, "the image is empty"),
        (b'{"inputs": "%s"}' % base64.b64encode(b"text"), 415, "not an image"),
        (b'{"inputs": "", "parameters": {"top_k": 5}}', 422, "parameters.top_k"),
    ],
)
def test_bad_bodies_get_one_clear_line(url, body, status, words):
    answer = httpx.post(f"{url}/hf", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]


def test_what_clients_write_out_though_it_says_nothing(url, encoded, photo):
    """Nulls for what is not set (Java, C#, Go), and the options of Hugging Face's own machines."""
    bare = httpx.post(f"{url}/hf", content=encoded(photo)).json()
    body = {
        "inputs": base64.b64encode(encoded(photo)).decode(),
        "parameters": {"threshold": None, "subtask": None},
        "options": {"wait_for_model": True, "use_cache": False},
    }
    for sent in (body, body | {"parameters": None, "options": None}):
        assert httpx.post(f"{url}/hf", json=sent).json() == bare


def test_an_unknown_model_is_404(url, encoded, photo):
    assert httpx.post(f"{url}/hf/other", content=encoded(photo)).status_code == 404
    assert httpx.get(f"{url}/hf").status_code == 405


def test_base64_as_programs_write_it(url, encoded, photo):
    data = encoded(photo)
    plain = base64.b64encode(data).decode()
    expected = httpx.post(f"{url}/hf", content=data, headers={"Content-Type": "image/png"}).json()
    for inputs in (
        plain,
        f"data:image/png;base64,{plain}",  # a browser's FileReader
        base64.encodebytes(data).decode(),  # lines of 76 characters, as the command base64 writes them
        base64.urlsafe_b64encode(data).decode(),
        plain.rstrip("="),
    ):
        answer = httpx.post(f"{url}/hf", json={"inputs": inputs})
        assert (answer.status_code, answer.json()) == (200, expected), inputs[-20:]
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what `curl -d` says of any body
    for space in (b"", b"\n "):
        body = space + b'{"inputs": "%s"}' % plain.encode()
        assert httpx.post(f"{url}/hf", content=body, headers=form).json() == expected
    answer = httpx.post(f"{url}/hf", json={"inputs": plain + "==QUJD"})
    assert (answer.status_code, "not valid base64" in answer.text) == (422, True)


def test_options_in_the_address_are_refused(url, encoded, photo):
    def ask(query: str) -> httpx.Response:
        return httpx.post(f"{url}/hf?{query}", content=encoded(photo), headers={"Content-Type": "image/png"})

    for query in ("threshold=0.5", "mask_treshold=0.5", "model=colors", "format=json", "t=1&size=20"):
        assert ask(query).status_code == 422, query
        assert "parameters go into the body" in ask(query).json()["error"]
    expected = ask("").json()
    for query in ("wait_for_model=true", "t=1785", "_=1&_=2"):
        assert ask(query).json() == expected
    assert "more than 50 options" in ask("&".join(f"{number}=1" for number in range(51))).json()["error"]


def test_a_form_is_told_to_send_the_image_itself(url, encoded, photo):
    answer = httpx.post(f"{url}/hf", files={"image": encoded(photo)})
    assert answer.status_code == 415
    assert (
        answer.json()["error"] == "send the image itself as the body, not a form; with curl: --data-binary @photo.jpg"
    )
