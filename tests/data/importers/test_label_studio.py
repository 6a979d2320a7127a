"""Label Studio's JSON by hand, as version 1.21 exports it."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from support.annotations import HEIGHT, WIDTH, canvas, imported, mask, masks, photo, refusal, write_json
from support.brush_bits import pack

from semseg_app.masks.brush import brush_rle, decode_brush_rle

CAR = {"points": [[25, 20], [50, 20], [50, 50], [25, 50]], "closed": True, "polygonlabels": ["car"]}
CAR_PIXELS = (slice(6, 15), slice(10, 20))


def region(value=CAR, kind="polygonlabels", **more):
    return {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": value,
        "id": "q1",
        "from_name": "label",
        "to_name": "image",
        "type": kind,
        "origin": "manual",
    } | more


def annotation(*results, by=1, **more):
    return {"id": 7, "completed_by": by, "result": list(results), "was_cancelled": False, "ground_truth": False} | more


def task(*annotations, name="a.jpg", **more):
    address = f"/data/upload/3/2bd44c48-{name}"
    return {
        "id": 1,
        "annotations": list(annotations),
        "file_upload": f"2bd44c48-{name}",
        "data": {"image": address},
        "predictions": [],
        "meta": {},
    } | more


def label_studio(root, *tasks, name="a.jpg"):
    photo(root / name)
    write_json(root / "project-3-at-2026-11-02.json", list(tasks))
    return root


def drawn(root, *options):
    return mask(imported(root, *options)[0], "background", "car", "tree")


def test_a_polygon_in_percent_and_the_name_of_an_upload(tmp_path):
    root = label_studio(tmp_path / "x", task(annotation(region())))
    expected = canvas()
    expected[CAR_PIXELS] = 1
    assert np.array_equal(drawn(root), expected)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"image": "/data/local-files/?d=yard/b%20c.jpg"}, "yard/b c.jpg"),
        ({"image": "s3://bucket/yard/1.jpg"}, "yard/1.jpg"),
        ({"img": "https://host/p/1.jpg?token=x", "text": "hello"}, "1.jpg"),
    ],
)
def test_addresses_of_photos(data, name, tmp_path):
    root = label_studio(tmp_path / "x", task(annotation(region()), data=data, file_upload=None), name=name)
    assert list(masks(imported(root)[0])) == [f"train/{name.rsplit('/', 1)[-1].removesuffix('.jpg')}"]


def test_rectangle_ellipse_and_their_rotation(tmp_path):
    rectangle = {"x": 50, "y": 50, "width": 25, "height": 20, "rotation": 90, "rectanglelabels": ["tree"]}
    ellipse = {"x": 25, "y": 20, "radiusX": 15, "radiusY": 10, "rotation": 0, "ellipselabels": ["car"]}
    root = label_studio(
        tmp_path / "x", task(annotation(region(rectangle, "rectanglelabels"), region(ellipse, "ellipselabels")))
    )
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    expected = canvas()
    expected[15:25, 14:20] = 2  # 10x6 at (20, 15), turned clockwise around that corner
    expected[((columns - 10) / 6) ** 2 + ((rows - 6) / 3) ** 2 <= 1] = 1
    assert np.array_equal(drawn(root), expected)


def test_a_brush_that_another_encoder_wrote(tmp_path):
    """Bits packed one by one (support/brush_bits), with alpha 100 as Label Studio's helpers write."""
    pixels = np.random.default_rng(1).random((HEIGHT, WIDTH)) > 0.7
    value = {"format": "rle", "rle": pack(pixels, alpha=100), "brushlabels": ["tree"]}
    root = label_studio(tmp_path / "x", task(annotation(region(value, "brushlabels"))))
    assert np.array_equal(drawn(root), pixels * 2)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 400)])
def test_our_own_brush_comes_back(size):
    for share in (0.0, 0.01, 0.5, 1.0):
        pixels = np.random.default_rng(size).random(size) < share
        assert np.array_equal(decode_brush_rle(brush_rle(pixels), *size), pixels)


def test_a_bitmask_and_labels_in_a_result_of_their_own(tmp_path):
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[3:9, 4:20] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    bare = {"points": CAR["points"], "closed": True}
    results = [
        region({"imageDataURL": url, "bitmasklabels": ["tree"]}, "bitmasklabels", id="b"),
        region(bare, "polygon"),
        region(bare | {"labels": ["car"]}, "labels"),
        {"type": "choices", "value": {"choices": ["blurred"]}, "from_name": "c", "to_name": "image", "id": "z"},
    ]
    root = label_studio(tmp_path / "x", task(annotation(*results)))
    expected = (pixels > 0) * 2
    expected[CAR_PIXELS] = 1
    data, report = imported(root)
    assert np.array_equal(mask(data, "background", "car", "tree"), expected)
    assert report["objects"]["no_area"] == {"choices": 1}


def test_a_region_without_a_label_is_ignored(tmp_path):
    root = label_studio(tmp_path / "x", task(annotation(region(), region(CAR | {"polygonlabels": []}))))
    assert (drawn(root)[CAR_PIXELS] == 255).all()


def versions(tmp_path):
    tree = region(CAR | {"polygonlabels": ["tree"]})
    ann = {"id": 2, "email": "ann@example.org"}
    annotations = [annotation(region()), annotation(region(), by=ann), annotation(tree, by=3)]
    return label_studio(tmp_path / "x", task(*annotations, annotation(tree, by=3, was_cancelled=True)))


def test_the_majority_of_annotators_or_one_of_them(tmp_path):
    root = versions(tmp_path)
    assert (drawn(root)[CAR_PIXELS] == 1).all()
    assert (drawn(root, "--annotator", "3")[CAR_PIXELS] == 2).all()
    assert (drawn(root, "--annotator", "ann@example.org")[CAR_PIXELS] == 1).all()
    assert imported(root)[1]["voted"] == 1
    assert "--annotator bob: annotated nothing; choose one of 1, 2, ann@example.org, 3" in refusal(
        root, "--annotator", "bob"
    )


def test_a_tie_is_ignored_and_the_ground_truth_decides(tmp_path):
    tree = region(CAR | {"polygonlabels": ["tree"]})
    pair = [annotation(region()), annotation(tree, by=2)]
    assert (drawn(label_studio(tmp_path / "x", task(*pair)))[CAR_PIXELS] == 255).all()
    pair[1]["ground_truth"] = True
    assert (drawn(label_studio(tmp_path / "y", task(*pair)))[CAR_PIXELS] == 2).all()


def test_skipped_and_empty_annotations(tmp_path):
    root = label_studio(
        tmp_path / "x",
        task(annotation(region())),
        task(annotation(), name="empty.jpg"),
        task(annotation(was_cancelled=True), name="skipped.jpg"),
        task(name="new.jpg"),
    )
    for name in ("empty", "skipped", "new"):
        photo(root / f"{name}.jpg")
    data, _ = imported(root)
    assert (masks(data)["train/empty"] == 0).all()
    assert [sample.stem for sample in data.samples("unlabeled")] == ["new", "skipped"]


def test_turned_photos_are_drawn_upright(tmp_path):
    root = label_studio(tmp_path / "x", task(annotation(region())))
    photo(root / "a.jpg", HEIGHT, WIDTH, turn=6)
    assert (drawn(root)[CAR_PIXELS] == 1).all()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (region({"points": [[1, 2], [3]]}), ".json: 0.annotations.0.result.0.value: 1.1: is missing"),
        (region(CAR | {"polygonlabels": ["car", "red"]}), "result.0: has the labels car, red; a pixel has one class"),
        (region(CAR, "vectorlabels2"), "result.0: unknown kind of region 'vectorlabels2'"),
        (region({"x": 1, "y": 2}, "rectanglelabels"), "result.0.value: width is missing"),
        (region({"y": 2}, "rectanglelabels"), "result.0.value: x: is missing"),
        (region({"rle": [1, 2]}, "brushlabels"), "result.0.value.rle: the run lengths end too early"),
        (region({"rle": [0, 0, 0, 4, 0]}, "brushlabels"), "result.0.value.rle: the run lengths"),
        (region({"rle": "x"}, "brushlabels"), "result.0.value.rle: must be a list of bytes"),
        (region({"imageDataURL": "data:,AAAA"}, "bitmasklabels"), "result.0.value.imageDataURL: is not a PNG"),
        (region(image_rotation=90), ".json: 0: the photo was rotated in Label Studio"),
        (region(original_width=99), ".json: 0: drawn on a picture of 99x30, but a.jpg is 40x30"),
        ({"value": CAR}, ".json: 0.annotations.0.result.0.type: is missing"),
    ],
)
def test_malformed_files(result, message, tmp_path):
    assert message in refusal(label_studio(tmp_path / "x", task(annotation(result))))


def min_record(number=1, name="a.jpg", annotator="ann@host.com", **tags):
    """What label-studio-sdk 2.1.2 writes as JSON-MIN of an annotation."""
    times = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "lead_time": 1.0}
    address = f"/data/upload/3/2bd44c48-{name}"
    return {"image": address, "id": number, **tags, "annotator": annotator, "annotation_id": 7, **times}


def sized(value):
    return value | {"original_width": WIDTH, "original_height": HEIGHT}


def test_json_min(tmp_path):
    sky = np.zeros((HEIGHT, WIDTH), bool)
    sky[:4] = True
    brush = {"format": "rle", "rle": brush_rle(sky), "brushlabels": ["sky"]}
    root = label_studio(tmp_path / "x")
    photo(root / "b.jpg")
    records = [
        min_record(label=[sized(CAR)], brush=[sized(brush)], quality="good", notes=[{"text": ["x"]}]),
        min_record(2, "b.jpg"),
    ]
    write_json(root / "project-3-at-2026-11-02.json", records)
    data, _ = imported(root)
    assert data.info.classes == ["background", "car", "sky"]
    expected = canvas()
    expected[CAR_PIXELS] = 1
    expected[:4] = 2
    drawn = masks(data)
    assert np.array_equal(drawn["train/a"], expected)
    assert not drawn["train/b"].any()  # submitted without a region


def test_json_min_where_one_tag_draws_and_another_labels(tmp_path):
    shape = {key: value for key, value in CAR.items() if key != "polygonlabels"}
    box = {"x": 50, "y": 50, "width": 25, "height": 20, "rotation": 0}
    root = label_studio(tmp_path / "x")
    tags = {"class": [sized(shape | {"labels": ["car"]}), sized(box | {"labels": ["tree"]})]}
    record = min_record(**tags, polygon=[sized(shape)], box=[sized(box)])
    write_json(root / "project-3-at-2026-11-02.json", [record])
    expected = canvas()
    expected[CAR_PIXELS] = 1
    expected[15:21, 20:30] = 2
    assert np.array_equal(mask(imported(root)[0], "background", "car", "tree"), expected)


@pytest.mark.parametrize("answer", [{"rating": 4}, {"number": 2}, {"text": ["old", "red"]}, {"choices": ["x", "y"]}])
def test_json_min_with_answers_about_a_region(answer, tmp_path):
    """They come with the shape of the region, without its label."""
    root = label_studio(tmp_path / "x")
    shape = {key: value for key, value in CAR.items() if key != "polygonlabels"}
    record = min_record(label=[sized(CAR)], about=[sized(shape | answer)])
    write_json(root / "project-3-at-2026-11-02.json", [record])
    expected = canvas()
    expected[CAR_PIXELS] = 1
    assert np.array_equal(mask(imported(root)[0], "background", "car"), expected)


def test_json_min_of_a_task_that_nobody_annotated(tmp_path):
    root = label_studio(tmp_path / "x")
    photo(root / "b.jpg")
    records = [min_record(label=[sized(CAR)]), min_record(2, "b.jpg", annotator=None) | {"annotation_id": None}]
    write_json(root / "project-3-at-2026-11-02.json", records)
    data, _ = imported(root)
    assert list(masks(data)) == ["train/a"]
    assert [sample.stem for sample in data.samples("unlabeled")] == ["b"]


def test_json_min_of_several_annotators(tmp_path):
    root = label_studio(tmp_path / "x")
    people = [("ann@host.com", [sized(CAR)]), ("bob@host.com", [sized(CAR)]), ("eve@host.com", [])]
    records = [min_record(annotator=person, label=regions) for person, regions in people]
    write_json(root / "project-3-at-2026-11-02.json", records)
    assert (mask(imported(root)[0], "background", "car") == 1).sum() == 90
    assert (mask(imported(root, "--annotator", "ann@host.com")[0], "background", "car") == 1).sum() == 90


def test_tasks_without_a_photo(tmp_path):
    root = label_studio(tmp_path / "x")
    assert "0.data: no photo in it" in refusal(label_studio(root, task(data={"text": "hello"}, file_upload=None)))


def test_the_split_that_a_task_names(tmp_path):
    named = {"a": "val", "b": "Training", "c": "night shift", "d": "unlabeled", "e": 3, "f": ""}
    root = tmp_path / "x"
    for name in named:
        photo(root / f"{name}.jpg")
    data = [{"image": f"/data/local-files/?d={name}.jpg", "split": split} for name, split in named.items()]
    tasks = [task(annotation(region()), data=entry, file_upload=None) for entry in data]
    write_json(root / "tasks.json", tasks)
    assert sorted(masks(imported(root)[0])) == ["night_shift/c", "train/b", "train/d", "train/e", "train/f", "val/a"]


def test_a_split_that_folders_name(tmp_path):
    root = tmp_path / "x"
    names = ["train/1/a.jpg", "val/1/b.jpg"]
    for name in names:
        photo(root / "photos" / name)
    data = [{"image": f"/data/local-files/?d={name}"} for name in names]
    tasks = [task(annotation(region()), data=entry, file_upload=None) for entry in data]
    write_json(root / "tasks.json", tasks)
    assert list(masks(imported(root)[0])) == ["train/a", "val/b"]
