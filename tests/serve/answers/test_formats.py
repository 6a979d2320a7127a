"""Every kind of answer of /v1/segment, read by what others would read it with."""

import base64
import io
import json
import re
import zipfile

import numpy as np
import pytest
import shapely
from PIL import Image
from pycocotools import mask as coco
from shapely.geometry import shape as read_geojson
from starlette.testclient import TestClient

from semseg_app.masks.geojson import features
from semseg_app.masks.polygons import Polygon
from semseg_app.serve.answers import body
from semseg_app.serve.answers.body import packed
from semseg_app.serve.answers.formats import FORMATS, Answered
from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig
from semseg_app.serve.scheduling.registry import Models
from semseg_app.serve.scheduling.served_model import ServedModel

PALETTE = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)


@pytest.fixture
def client(engine):
    with TestClient(create_app(engine, ServeConfig(demo=False))) as client:
        yield client


@pytest.fixture
def ask(client, encoded, photo):
    """Send the photo; the answer, which must be good."""

    def ask(query: str = "", accept: str = "*/*", image: np.ndarray = photo, **headers: str):
        answer = client.post(
            f"/v1/segment{query}",
            content=encoded(image),
            headers={"Content-Type": "image/png", "Accept": accept, **headers},
        )
        assert answer.status_code == 200, answer.text
        return answer

    return ask


def picture(answer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def filled(geometries: list[dict], height: int, width: int) -> np.ndarray:
    """bool [H, W]: the pixels whose centers lie in a geometry."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = [shapely.contains_xy(read_geojson(geometry), x, y) for geometry in geometries]
    return np.logical_or.reduce(inside)


def test_pictures(ask, photo, mask):
    np.testing.assert_array_equal(picture(ask("?format=png")), mask)
    np.testing.assert_array_equal(picture(ask("?format=color")), PALETTE[mask])
    confidence = ask("?format=confidence")
    assert Image.open(io.BytesIO(confidence.content)).mode == "L"
    np.testing.assert_array_equal(picture(confidence), photo.max(axis=2))
    for answer in (ask("?format=overlay&opacity=0.25"), ask("?opacity=0.25", "image/jpeg")):
        assert answer.headers["content-type"] == "image/jpeg"
        expected = 0.75 * photo + 0.25 * PALETTE[mask]
        assert np.abs(picture(answer) - expected)[:24, :24].max() < 6  # JPEG


def test_raw_classes(ask, mask):
    for answer in (ask("?format=raw"), ask(accept="application/octet-stream")):
        size = int(answer.headers["x-image-height"]), int(answer.headers["x-image-width"])
        np.testing.assert_array_equal(np.frombuffer(answer.content, np.uint8).reshape(size), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools, with numpy 2
def test_run_lengths(ask, mask):
    answer = ask("?format=rle").json()
    assert (answer["model"], answer["width"], answer["height"]) == ("colors", 60, 40)
    assert [entry["name"] for entry in answer["classes"]] == ["red", "green", "<blue>"]
    for entry in answer["classes"]:
        np.testing.assert_array_equal(coco.decode(entry["segmentation"]), mask == entry["index"])
        assert entry["area"] == coco.area(entry["segmentation"])
        assert entry["box"] == coco.toBbox(entry["segmentation"]).tolist()


def test_polygons_with_holes(ask, photo):
    photo[5:10, 5:10] = (0, 255, 0)  # a green hole in the red
    expected = photo.argmax(axis=2)
    answer = ask("?format=polygons", image=photo).json()
    red = answer["classes"][0]
    assert [len(polygon["holes"]) for polygon in red["polygons"]] == [1]
    for entry in answer["classes"]:
        geometries = [
            {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in (part["exterior"], *part["holes"])]}
            for part in entry["polygons"]
        ]
        np.testing.assert_array_equal(filled(geometries, 40, 60), expected == entry["index"])


def test_geojson_in_pixels_and_on_the_ground(ask, mask):
    for answer in (ask("?format=geojson"), ask(accept="application/geo+json")):
        assert answer.headers["content-type"] == "application/geo+json"
        features = answer.json()["features"]
        for index in range(3):
            found = [entry["geometry"] for entry in features if entry["properties"]["index"] == index]
            np.testing.assert_array_equal(filled(found, 40, 60), mask == index)
    red = ask("?format=geojson&transform=2,0,1000,0,-2,500&classes=red").json()["features"]
    assert red[0]["properties"] == {"index": 0, "name": "red", "color": "#c81e1e", "model": "colors"}
    assert read_geojson(red[0]["geometry"]).bounds == (1000, 440, 1060, 500)


def test_classes_and_threshold_leave_the_rest_unknown(ask, photo, mask):
    wanted = np.where(mask == 1, 255, mask)
    np.testing.assert_array_equal(picture(ask("?classes=red,2")), wanted)
    np.testing.assert_array_equal(picture(ask("?classes=0,<blue>")), wanted)
    # Confidences are 255, 200 and 128.
    np.testing.assert_array_equal(picture(ask(f"?threshold={200 / 255}")), np.where(mask == 2, 255, mask))
    np.testing.assert_array_equal(picture(ask("?threshold=0.8")), np.where(mask == 0, mask, 255))
    answer = ask("?classes=red,green&threshold=0.8&format=json").json()
    assert [entry["name"] for entry in answer["classes"]] == ["red"]
    assert answer["unknown"] == 0.625
    overlay = picture(ask("?classes=red&format=overlay&opacity=1"))
    assert np.abs(overlay[:24, 40:] - photo[:24, 40:].astype(int)).max() < 6
    assert [entry["name"] for entry in ask("?threshold=1&format=rle").json()["classes"]] == ["red"]


@pytest.mark.parametrize(
    ("size", "expected"), [("30", (20, 30)), ("1000x10", (10, 15)), ("60x40", (40, 60)), ("99", (40, 60))]
)
def test_size_reduces_and_never_enlarges(ask, photo, size, expected):
    small = picture(ask(f"?size={size}"))
    assert small.shape == expected
    reduced = Image.fromarray(photo).resize(expected[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(small, np.asarray(reduced).argmax(axis=2))


def test_several_images(client, encoded, photo, mask):
    turned = photo[::-1]
    files = [
        ("image", ("../../etc/a b.png", encoded(photo))),
        ("image", ("tall.png", encoded(turned[:, :20]))),
        ("file", encoded(photo)),
    ]

    def ask(form: str):
        answer = client.post(f"/v1/segment?format={form}", files=files)
        assert answer.status_code == 200, answer.text
        return answer

    images = ask("json").json()["images"]
    assert [(one["file"], one["width"], one["height"]) for one in images] == [
        ("a_b.png", 60, 40),
        ("tall.png", 20, 40),
        ("upload", 60, 40),  # as the client calls what has no name
    ]
    answer = ask("png")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["000-a_b.png", "001-tall.png", "002-upload.png"]
        for name, expected in zip(archive.namelist(), (mask, mask[::-1, :20], mask), strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(archive.open(name))), expected)
    with zipfile.ZipFile(io.BytesIO(ask("raw").content)) as archive:
        assert archive.namelist()[1] == "001-tall-20x40.raw"
        assert archive.read("001-tall-20x40.raw") == mask[::-1, :20].tobytes()
    files[0] = ("image", ("𠮷" * 90 + ".png", encoded(photo)))
    with zipfile.ZipFile(io.BytesIO(ask("raw").content)) as archive:
        assert 200 < len(archive.namelist()[0].encode()) <= 255, "what file systems take"
    files[0] = ("image", ("a_b.png", encoded(photo)))
    features = ask("geojson").json()["features"]
    assert {(entry["properties"]["image"], entry["properties"]["file"]) for entry in features} == {
        (0, "a_b.png"),
        (1, "tall.png"),
        (2, "upload"),
    }


@pytest.mark.parametrize("field", ["photo", "images", "image[]", "files", "files[]", "image[0]"])
def test_names_of_the_field_that_mean_the_photo(client, encoded, photo, mask, field):
    answer = client.post("/v1/segment", files={field: ("a.png", encoded(photo))})
    np.testing.assert_array_equal(picture(answer), mask)


def test_a_photo_without_a_file_name(client, encoded, photo, mask):
    """JavaScript's form-data and aiohttp send bytes so, when they are not told a name."""
    for image in (photo, np.kron(photo, np.ones((9, 9, 1), np.uint8))):  # below and above the limit of texts
        answer = client.post("/v1/segment", files={"image": (None, encoded(image))})
        assert answer.status_code == 200, answer.text
        assert picture(answer).shape == image.shape[:2]
        text = "data:image/png;base64," + base64.b64encode(encoded(image)).decode()
        answer = client.post("/v1/segment", files={"image": (None, text)})
        assert (answer.status_code, "holds text, not a file" in answer.text) == (422, True)
    for kind in ("BMP", "TIFF"):  # a dark photo may have no byte above 127
        assert client.post("/v1/segment", files={"image": (None, encoded(photo // 4, kind))}).status_code == 200


def test_a_file_in_another_field_is_not_left_out_in_silence(client, encoded, photo):
    answer = client.post("/v1/segment", files={"image": encoded(photo), "mask": encoded(photo)})
    assert (answer.status_code, answer.json()["error"]) == (
        422,
        "the form has a file in a field 'mask'; photos go into 'image'",
    )


def test_a_broken_one_among_several_is_named(client, encoded, photo):
    files = [("image", ("good.png", encoded(photo))), ("image", ("bad.png", encoded(photo)[:-40]))]
    answer = client.post("/v1/segment", files=files)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("image 2 (bad.png): the image is truncated")
    answer = client.post("/v1/segment", files=[files[0], ("image", ("a.txt", b"text"))])
    assert (answer.status_code, answer.json()["error"][:17]) == (415, "image 2 (a.txt): ")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("format=tiff", "format: choose one of png, color, "),
        ("threshold=2", "threshold: must be less than or equal to 1"),
        ("threshold=nan", "threshold: "),
        ("size=0", "size: "),
        ("size=12x", "size: must be a number of pixels such as 512, or WIDTHxHEIGHT such as 640x480"),
        ("classes=red,mauve", "the model has no 'mauve'; it has red, green, <blue>"),
        ("classes=", "the model has no ''"),
        ("classes=3", "the model has no '3'"),
        ("format=geojson&transform=1,2", "transform '1,2': give six numbers"),
        ("treshold=0.5", "unknown parameter 'treshold'; this address takes model, classes, threshold, format, size, "),
        ("treshold=0.5", "; did you mean threshold?"),
        ("format=png&format=rle", "format: given twice, as 'png' and 'rle'; give it once"),
        ("opacity=x", "opacity: "),
        ("simplify=-1", "simplify: must be greater than or equal to 0"),
        ("simplify=nan", "simplify: "),
        ("classes=" + "9" * 5000, "the model has no '9999"),
        ("classes=" + "9" * 5000 + "&format=geojson", "the model has no '9999"),
        ("format=geojson&transform=1e308,0,0,0,-1e308,0", "must lie between -1e+12 and 1e+12"),
        ("format=geojson&transform=1,0,1e200,0,1,0", "must lie between"),
        ("format=geojson&transform=nan,0,0,0,1,0", "must lie between"),
        ("format=geojson&transform=" + "1" * 390, "give six numbers"),
        ("format=geojson&transform=1,1,0,1,1,0", "maps every area onto a line"),
        ("format=geojson&transform=1000,2,0,500,0,-2", "seems to be in the order of GDAL; give them as a,b,c,d,e,f"),
        ("format=geojson&transform=2,0,0,-2,1000,500", "seems to be in the order of shapely and world files"),
    ],
)
def test_wrong_parameters_get_one_clear_line(client, encoded, photo, query, words):
    answer = client.post(f"/v1/segment?{query}", files={"image": encoded(photo)})
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "option", ["classes=red", "threshold=0.7", "size=20", "simplify=5", "opacity=0.1", "transform=2,0,0,0,2,0"]
)
def test_an_option_changes_the_answer_or_is_refused(client, encoded, photo, form, option):
    staircase = photo.copy()
    staircase[np.tri(40, 60, 10, bool)] = (0, 0, 90)

    def sent(query: str):
        answer = client.post(f"/v1/segment?{query}", files={"image": encoded(staircase)})
        answer.content_without_times = re.sub(rb'"latency_ms":.*?}', b"", answer.content)
        return answer

    name = option.partition("=")[0]
    plain, changed = sent(f"format={form}"), sent(f"format={form}&{option}")
    assert plain.status_code == 200
    if changed.status_code == 200:
        assert changed.content_without_times != plain.content_without_times
        return
    refusal = changed.json()["error"]
    assert (changed.status_code, refusal.partition(":")[0]) == (422, name)
    takers = re.findall(r"format=(\w+)", refusal.partition("choose")[2])
    assert takers
    for taker in takers:
        assert sent(f"format={taker}&{option}").status_code == 200


def test_which_options_belong_to_which_format(client, encoded, photo):
    def refusal(query: str, accept: str = "*/*") -> str:
        answer = client.post(f"/v1/segment?{query}", files={"image": encoded(photo)}, headers={"Accept": accept})
        return answer.json()["error"] if answer.status_code == 422 else ""

    assert refusal("format=png&simplify=1") == (
        "simplify: has no effect on format=png; leave it out, or choose format=polygons or format=geojson"
    )
    assert "no effect on format=json" in refusal("simplify=1", "application/json")
    assert "choose format=overlay" in refusal("opacity=0.9")
    assert "choose format=geojson" in refusal("format=polygons&transform=1,0,0,0,1,0")
    assert "no effect on format=confidence" in refusal("format=confidence&classes=red")
    # Clients made from OpenAPI, and /docs, send the defaults.
    assert refusal("format=png&simplify=0.0&opacity=0.5&threshold=0") == ""


def test_lists_as_clients_write_them(ask, mask):
    """requests, httpx and URLSearchParams write a list as one parameter for each item."""
    expected = np.where(mask == 2, 255, mask)
    for query in ("?classes=red,green", "?classes=red&classes=green", "?classes=0&classes=green"):
        np.testing.assert_array_equal(picture(ask(query)), expected)
    np.testing.assert_array_equal(picture(ask("?format=png&format=png")), mask)
    one = ask("?format=geojson&transform=0.5,0,100,0,-0.5,200").json()
    six = ask("?format=geojson&" + "&".join(f"transform={number}" for number in (0.5, 0, 100, 0, -0.5, 200))).json()
    assert one == six


def test_polygons_of_noise_are_refused_in_words(client, encoded, monkeypatch):
    monkeypatch.setattr("semseg_app.masks.polygons.MAX_CORNERS", 1000)
    noise = np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)
    answer = client.post("/v1/segment?format=polygons", files={"image": encoded(noise)})
    assert answer.status_code == 422
    assert "ask for run lengths or a PNG" in answer.json()["error"]


def test_kinds_of_pixels_that_are_not_8_bit_rgb(ask, client, encoded, photo, mask):
    """Alpha lies over white, CMYK and gray become RGB, 16 bits are refused; EXIF turns (tested beside)."""
    alpha = np.dstack([photo, np.full((40, 60), 255, np.uint8)])
    alpha[:10, :10] = (0, 0, 0, 0)
    expected = mask.copy()
    expected[:10, :10] = 0  # white: all channels equal, the first wins

    def sent(data: bytes) -> np.ndarray:
        answer = client.post("/v1/segment", files={"image": data})
        assert answer.status_code == 200, answer.text
        return picture(answer)

    np.testing.assert_array_equal(sent(encoded(alpha)), expected)
    np.testing.assert_array_equal(sent(encoded(Image.fromarray(photo).convert("CMYK"), "TIFF")), mask)
    gray16 = Image.fromarray((np.arange(2400).reshape(40, 60) * 27).astype(np.uint16))
    answer = client.post("/v1/segment", files={"image": encoded(gray16)})
    assert answer.status_code == 415
    assert "16-bit" in answer.json()["error"]


@pytest.mark.parametrize("slots", [1, 2, 64])
def test_several_images_need_no_more_slots_than_there_are(engine, encoded, photo, mask, slots):
    models = Models([ServedModel(engine)], ServeConfig(max_requests=slots, demo=False))
    with TestClient(create_app(models)) as client:
        files = [("image", (f"{number}.png", encoded(photo))) for number in range(5)]
        for broken in (False, True, False):
            last = ("image", ("5.png", b"text" if broken else encoded(photo)))
            answer = client.post("/v1/segment?format=raw", files=[*files, last])
            assert answer.status_code == (415 if broken else 200), answer.text
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert [archive.read(name) == mask.tobytes() for name in archive.namelist()] == [True] * 6
        assert 'semseg_requests_inside{model="colors"} 0.0' in client.get("/metrics").text


def discs() -> np.ndarray:
    """uint8 RGB [60, 80, 3]: a green and a blue disc that touch, on red."""
    y, x = np.mgrid[:60, :80]
    photo = np.zeros((60, 80, 3), np.uint8)
    photo[..., 0] = 100
    photo[(y - 30) ** 2 + (x - 25) ** 2 < 400, 1] = 200
    photo[(y - 25) ** 2 + (x - 55) ** 2 < 300, 2] = 250
    return photo


@pytest.mark.parametrize("form", ["polygons", "geojson"])
def test_simplified_outlines_have_fewer_corners_and_leave_no_gaps(ask, form):
    def shapes(query: str) -> dict[int, shapely.Geometry]:
        answer = ask(f"?format={form}{query}", image=discs()).json()
        if form == "geojson":
            return {it["properties"]["index"]: read_geojson(it["geometry"]) for it in answer["features"]}
        return {
            entry["index"]: shapely.MultiPolygon(
                [(part["exterior"], part["holes"]) for part in entry["polygons"]],
            )
            for entry in answer["classes"]
        }

    exact, simple = shapes(""), shapes("&simplify=1")
    assert exact.keys() == simple.keys() == {0, 1, 2}
    for index, shape in simple.items():
        assert shape.is_valid
        assert shapely.get_num_coordinates(shape) < 0.5 * shapely.get_num_coordinates(exact[index])
        assert shapely.hausdorff_distance(shape, exact[index]) <= 1 + 1e-9
    assert sum(shape.area for shape in simple.values()) == 60 * 80
    assert shapely.union_all(list(simple.values())).area == 60 * 80


def test_outlines_with_too_many_corners_are_not_simplified(client, encoded, monkeypatch):
    monkeypatch.setattr("semseg_app.serve.answers.formats.MOST_TO_SIMPLIFY", 50)
    files = {"image": encoded(discs())}
    assert client.post("/v1/segment?format=polygons", files=files).status_code == 200
    answer = client.post("/v1/segment?format=polygons&simplify=1", files=files)
    assert answer.status_code == 422
    assert "at most 50 are simplified; reduce the photo with size=, or leave simplify= out" in answer.json()["error"]


def test_outlines_become_lists_one_by_one(monkeypatch):
    """Python's lock is held for each outline; for a million corners, it would keep all other requests waiting."""
    squares = np.arange(300)[:, None, None] + np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
    turns, as_list = [], body._as_list
    monkeypatch.setattr(body, "_as_list", lambda outline: turns.append(len(outline)) or as_list(outline))
    answers = [Answered("", 1, 1, features([Polygon(square, []) for square in squares], {"index": 0}))]
    written = json.loads(packed("geojson", answers)[0])["features"]
    assert [feature["geometry"]["coordinates"][0][:-1] for feature in written] == squares.tolist()
    assert turns == [5] * 300
