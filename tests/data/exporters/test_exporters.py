"""Exports, read back by what the tools' own rules say."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.in_process import semseg
from support.tool_readers import READERS

from semseg_app.data.exporters.export import ExportOptions, export_labels
from semseg_app.data.exporters.formats import FORMATS
from semseg_app.data.exporters.picture import Picture
from semseg_app.errors import UserError
from semseg_app.labels import LabelSpace

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
"""pycocotools 2.0.11 with NumPy 2."""

CLASSES = ["ground", "box & co", "disc", 'never "used"']
LABELS = LabelSpace(classes=CLASSES, palette=[(90, 90, 90), (200, 60, 40), (40, 90, 210), (0, 200, 0)])
FORMATS_WITH_MASKS = [name for name, it in FORMATS.items() if it.has_masks]


def scene(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    """Blobs of three classes over each other, rings with holes, single pixels, and pixels of no class."""
    random = np.random.default_rng(seed)
    classes = np.zeros((height, width), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(12):
        y, x, outer = random.integers(0, height), random.integers(0, width), random.integers(4, 22)
        distance = np.hypot(rows - y, columns - x)
        hole = outer - 3 if random.random() < 0.5 else 0
        classes[(distance < outer) & (distance >= hole)] = random.choice([0, 1, 2, 255])
    classes[random.integers(0, height, 9), random.integers(0, width, 9)] = 1
    return classes


@pytest.fixture
def pictures(tmp_path: Path) -> list[Picture]:
    result = []
    for number, (split, name) in enumerate([("train", "a b.jpg"), ("train", "deep/c.png"), ("val", "a b.jpg")]):
        photo = tmp_path / "photos" / split / name
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (120, 90), (number, 0, 0)).save(photo)
        result.append(Picture(split, name, photo, 120, 90, scene(number)))
    return result


@pytest.mark.parametrize("name", FORMATS_WITH_MASKS)
def test_masks_are_exact(name, pictures, tmp_path):
    report = export_labels(pictures, LABELS, name, tmp_path / "out", ExportOptions(shapes="masks"))
    maps = READERS[name](tmp_path / "out", CLASSES)
    assert set(maps) == {picture.below.as_posix() for picture in pictures}
    for picture in pictures:
        np.testing.assert_array_equal(maps[picture.below.as_posix()], picture.classes)
    assert (report.photos, report.labeled, report.polygons, report.ignored) == (3, 3, 0, 3)


@pytest.mark.parametrize("name", FORMATS)
def test_polygons_say_the_same_pixels(name, pictures, tmp_path):
    """Also where a class encloses pixels of no class: the hole is kept, or bridged where the format has no masks."""
    report = export_labels(pictures, LABELS, name, tmp_path / "out", ExportOptions(tolerance=0))
    maps = READERS[name](tmp_path / "out", CLASSES)
    for picture in pictures:
        assert (maps[picture.below.as_posix()] == picture.classes).mean() > 0.999
    assert report.polygons > 50
    assert (report.masks, report.bridged > 5) if name == "yolo" else (report.bridged, report.masks > 5) == (0, True)


@pytest.mark.parametrize("name", FORMATS)
def test_simplified_polygons_stay_near_and_leave_no_gaps(name, pictures, tmp_path):
    export_labels(pictures, LABELS, name, tmp_path / "exact", ExportOptions(tolerance=0))
    export_labels(pictures, LABELS, name, tmp_path / "out", ExportOptions(tolerance=1))
    maps = READERS[name](tmp_path / "out", CLASSES)
    for picture in pictures:
        classes = maps[picture.below.as_posix()]
        assert (classes == picture.classes).mean() > 0.97
        known = np.pad(picture.classes, 2, mode="edge") != 255
        rows, columns = (range(5),) * 2
        inside = np.all([known[y : y + 90, x : x + 120] for y in rows for x in columns], axis=0)
        assert (classes[inside] == 255).mean() < 0.002, "neighbors must share their border"
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / it).rglob("*") if path.suffix in (".json", ".xml", ".txt"))
        for it in ("out", "exact")
    ]
    assert sizes[0] < 0.8 * sizes[1]


def test_neighbors_keep_one_border(pictures):
    """Each edge between two classes is in both outlines, so nothing lies between them and nothing twice."""
    from semseg_app.masks.polygons import polygons
    from semseg_app.masks.simplify import simplified

    for seed in range(8):
        classes = scene(seed)
        directed = [
            (tuple(begin), tuple(end))
            for parts in simplified(classes, polygons(classes), 2.0).values()
            for part in parts
            for ring in (part.exterior, *part.holes)
            for begin, end in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True)
        ]
        lonely = [
            (begin, end)
            for begin, end in directed
            if (end, begin) not in set(directed)
            and not any(begin[axis] == end[axis] and begin[axis] in (0, side) for axis, side in ((0, 120), (1, 90)))
        ]
        # A line of single pixels stays what it was, while what surrounds it may not.
        assert len(lonely) < 0.35 * len(directed)


def test_a_part_at_every_corner_distance_keeps_its_pixels():
    """Outlines simplified by at most the tolerance: no pixel farther than that from a border changes its class."""
    from semseg_app.data.exporters.shapes import polygon_shapes

    for seed in range(6):
        classes = scene(seed)
        canvas = np.full(classes.shape, 255, np.uint8)
        for shape in polygon_shapes(classes, 2.0):
            canvas[shape.in_picture(*classes.shape)] = shape.class_index
        padded = np.pad(classes, 3, mode="edge")
        around = np.stack([padded[y : y + 90, x : x + 120] for y in range(7) for x in range(7)])
        calm = (around == classes).all(axis=0)
        np.testing.assert_array_equal(canvas[calm], classes[calm])


def test_specks_go_to_the_class_around_them():
    from semseg_app.data.exporters.shapes import merge_specks

    classes = np.zeros((20, 30), np.uint8)
    classes[:, 15:] = 1
    classes[3:5, 3:5] = 2  # 4 pixels inside class 0
    classes[10, 15:18] = 2  # 3 pixels that touch class 1 more
    classes[15:19, 20:25] = 2  # 20 pixels stay
    classes[0, 0] = 255
    merged, count = merge_specks(classes, 5)
    expected = classes.copy()
    expected[3:5, 3:5] = 0
    expected[10, 15:18] = 1
    np.testing.assert_array_equal(merged, expected)
    assert count == 2


def test_left_out_classes_and_photos_without_masks(pictures, tmp_path):
    pictures[1] = Picture(*[getattr(pictures[1], key) for key in ("split", "name", "photo", "width", "height")], None)
    options = ExportOptions(shapes="masks", leave_out=("ground",))
    report = export_labels(pictures, LABELS, "labelme", tmp_path / "out", options)
    maps = READERS["labelme"](tmp_path / "out", CLASSES)
    assert set(maps) == {"train/a b.jpg", "val/a b.jpg"}
    np.testing.assert_array_equal(maps["val/a b.jpg"], np.where(pictures[2].classes == 0, 255, pictures[2].classes))
    assert (tmp_path / "out" / "train" / "deep" / "c.png").is_file()
    assert (report.photos, report.labeled) == (3, 2)


def test_predictions_have_scores(pictures, tmp_path):
    confidence = np.where(pictures[0].classes == 2, 255, 51).astype(np.uint8)
    predicted = Picture("p", "a b.jpg", pictures[0].photo, 120, 90, pictures[0].classes, confidence)
    export_labels([predicted], LABELS, "label-studio", tmp_path / "ls", ExportOptions(shapes="masks"))
    (task,) = json.loads((tmp_path / "ls" / "tasks.json").read_text())
    (prediction,) = task["predictions"]
    assert "annotations" not in task
    scores = {region["value"]["brushlabels"][0]: region["score"] for region in prediction["result"]}
    assert scores == {"ground": 0.2, "box & co": 0.2, "disc": 1.0}
    export_labels([predicted], LABELS, "coco", tmp_path / "coco", ExportOptions(shapes="masks"))
    annotations = json.loads((tmp_path / "coco" / "annotations" / "instances_p.json").read_text())["annotations"]
    assert [it["score"] for it in annotations] == [0.2, 0.2, 1.0]


def same_name(pictures: list[Picture]) -> Iterator[Picture]:
    yield pictures[0]
    yield Picture("train", "a b.png", pictures[1].photo, 120, 90, None)


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        (ExportOptions(shapes="masks"), "yolo", "polygons only"),
        (ExportOptions(leave_out=("grond",)), "coco", "did you mean ground"),
        (ExportOptions(), "coc", "choose one of coco, cvat"),
        (ExportOptions(), "coco", "same name"),
    ],
)
def test_mistakes_leave_nothing_behind(options, name, message, pictures, tmp_path):
    with pytest.raises(UserError, match=message):
        export_labels(same_name(pictures), LABELS, name, tmp_path / "out", options)
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}


def test_the_command_exports_a_dataset(tiny_dataset, tmp_path):
    done = semseg("data", "export", tiny_dataset, "--to", "coco", "--shapes", "masks", "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["photos"], report["labeled"], report["ignored"]) == (17, 17, 17)
    classes = yaml.safe_load((tiny_dataset / "dataset.yaml").read_text())["classes"]
    for name, canvas in READERS["coco"](tmp_path / "out", classes).items():
        np.testing.assert_array_equal(canvas, np.asarray(Image.open(tiny_dataset / "labels" / name)))
    again = semseg("data", "export", tiny_dataset, "--to", "coco", "-o", tmp_path / "out")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("name", ["cvat", "label-studio", "yolo"])
def test_splits_of_any_name_come_back(name, pictures, tmp_path):
    """As of a list of photos to label next; what was unlabeled is for training then."""
    splits = ["next-6", "unlabeled", "holdout"]
    named = [replace(picture, split=split) for picture, split in zip(pictures, splits, strict=True)]
    export_labels(named, LABELS, name, tmp_path / "out", ExportOptions())
    semseg("data", "import", f"{tmp_path / 'out'}", "-o", f"{tmp_path / 'again'}", "--no-check")
    assert sorted(path.name for path in (tmp_path / "again" / "labels").iterdir()) == ["holdout", "next-6", "train"]


def test_the_command_exports_predictions_of_any_folder_of_photos(make_graph, tmp_path):
    for path, color, size in (("a.png", (200, 0, 0), (30, 20)), ("sub/b.jpg", (0, 0, 200), (40, 24))):
        photo = tmp_path / "photos" / path
        photo.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", size, color)
        image.paste((0, 200, 0), (5, 5, 15, 12))
        image.save(photo, quality=95)
    turned = tmp_path / "photos" / "turned.jpg"
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (40, 24), (0, 0, 200)).save(turned, exif=exif)
    done = semseg(
        "data", "export", tmp_path / "photos", "--model", make_graph(), "--to", "cvat", "-o", tmp_path / "out",
        "--tolerance", 0,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    maps = READERS["cvat"](tmp_path / "out", ["red", "green", "blue"])
    assert {name: canvas.shape for name, canvas in maps.items()} == {
        "unlabeled/a.png": (20, 30),
        "unlabeled/sub/b.jpg": (24, 40),
        "unlabeled/turned.jpg": (40, 24),
    }
    expected = np.zeros((20, 30), np.uint8)
    expected[5:12, 5:15] = 1
    np.testing.assert_array_equal(maps["unlabeled/a.png"], expected)
    assert (maps["unlabeled/turned.jpg"] == 2).all()
