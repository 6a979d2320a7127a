"""COCO instances, written by hand and by pycocotools."""

import json
import sys

import cv2
import numpy as np
import pytest
import shapely
from pycocotools import mask as coco_masks
from support.annotations import HEIGHT, WIDTH, canvas, imported, mask, masks, photo, refusal, write_json

from semseg_app.synthetic import CLASSES, generate

CAR = [[10.0, 5.0, 20.0, 5.0, 20.0, 15.0, 10.0, 15.0]]
CAR_PIXELS = (slice(5, 15), slice(10, 20))


def coco(root, *annotations, categories=((1, "car"), (7, "tree")), images=(("a.jpg", 5),), more=None):
    for name, _ in images:
        photo(root / "images" / name)
    content = {
        "info": {"description": "by hand", "version": "1.0"},
        "licenses": [],
        "images": [{"id": id, "file_name": name, "width": WIDTH, "height": HEIGHT} for name, id in images],
        "categories": [{"id": id, "name": name, "supercategory": ""} for id, name in categories],
        "annotations": [
            {"id": number, "image_id": 5, "iscrowd": 0, "category_id": 1, "segmentation": CAR} | annotation
            for number, annotation in enumerate(annotations)
        ],
    }
    write_json(root / "annotations" / "instances_default.json", content | (more or {}))
    return root


def test_a_polygon_is_its_pixels(tmp_path):
    data, report = imported(coco(tmp_path / "x", {}))
    expected = canvas()
    expected[CAR_PIXELS] = 1
    assert np.array_equal(mask(data, "background", "car", "tree"), expected)
    assert data.info.classes == ["background", "car", "tree"]  # a category without use is a class all the same
    assert report["objects"]["drawn"] == {"car": 1}
    assert report["classes"]["car"] == {"pixels": 100, "photos": 1}


@pytest.mark.parametrize(("ids", "category"), [((0, 1), 0), ((1, 2), 1), ((10, 3), 10)])
def test_category_ids_may_begin_anywhere(ids, category, tmp_path):
    root = coco(tmp_path / "x", {"category_id": category}, categories=[(ids[0], "car"), (ids[1], "tree")])
    assert (masks(imported(root)[0])["train/a"] == 1).sum() == 100


@pytest.mark.parametrize("name", ["/data/local-files/?d=day/a.jpg", "https://host/photos/a.jpg?key=1"])
def test_photos_by_their_addresses_as_label_studio_names_them(name, tmp_path):
    root = coco(tmp_path / "x", {})
    path = root / "annotations" / "instances_default.json"
    path.write_text(path.read_text().replace("a.jpg", name))
    data, report = imported(root)
    assert (masks(data)["train/a"] == 1).sum() == 100
    assert report["renamed"] == 0


def test_several_parts_and_crowds(tmp_path):
    crowd = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    crowd[0:20, 0:15] = 1
    runs = coco_masks.encode(crowd)
    runs["counts"] = runs["counts"].decode()
    two = [*CAR, [30, 20, 35, 20, 35, 25, 30, 25]]
    # The crowd region comes last in the file, and still hides no car.
    root = coco(tmp_path / "x", {"segmentation": two}, {"segmentation": runs, "iscrowd": 1, "category_id": 7})
    data, report = imported(root)
    expected = canvas()
    expected[0:20, 0:15] = 255
    expected[CAR_PIXELS] = 1
    expected[20:25, 30:35] = 1
    assert np.array_equal(mask(data, "background", "car", "tree"), expected)
    assert report["objects"]["ignored"] == {"crowd or unknown": 1}


def test_supervision_calls_objects_with_holes_crowds(tmp_path):
    ring = np.zeros((HEIGHT, WIDTH), bool)
    ring[5:15, 10:20] = True
    ring[8:12, 13:17] = False
    (runs,) = segmentations(ring, "counts")
    root = coco(tmp_path / "x", {"segmentation": runs, "iscrowd": 1}, {"segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]})
    path = root / "annotations" / "instances_default.json"
    assert (mask(imported(root)[0], "background", "car", "tree")[ring] == 255).all()
    path.write_text(path.read_text().replace('"supercategory": ""', '"supercategory": "common-objects"'))
    ring[:3, :3] = True
    assert np.array_equal(mask(imported(root)[0], "background", "car", "tree"), ring)


def test_the_coco_files_of_cvat_call_brushed_masks_crowds(tmp_path):
    """Head of the file as Datumaro 1.13.12 writes it."""
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[5:15, 10:20] = True
    (runs,) = segmentations(pixels, "counts")
    info = dict.fromkeys(("contributor", "date_created", "description", "url", "version", "year"), "")
    head = {"info": info, "licenses": [{"name": "", "id": 0, "url": ""}]}
    data, report = imported(coco(tmp_path / "x", {"segmentation": runs, "iscrowd": 1}, more=head))
    assert np.array_equal(mask(data, "background", "car", "tree"), pixels)
    assert report["notes"] == [
        "instances_default.json: CVAT (Datumaro) marks objects as crowds; 1 are drawn as objects"
    ]


@pytest.mark.parametrize("overlap", [None, "last", "largest-on-bottom"])
def test_overlapping_objects(overlap, tmp_path):
    whole = [[0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT]]
    root = coco(tmp_path / "x", {}, {"segmentation": whole, "category_id": 7})
    data, report = imported(root, *(["--overlap", overlap] if overlap else []))
    expected = canvas(2)
    if overlap == "largest-on-bottom":
        expected[CAR_PIXELS] = 1
    assert np.array_equal(mask(data, "background", "car", "tree"), expected)
    assert report["overlap"] == (overlap or "last")


def test_an_order_that_coco_does_not_have(tmp_path):
    line = refusal(coco(tmp_path / "x", {}), "--overlap", "z-order")
    assert line == "--overlap z-order: COCO instances has no z-order; choose one of last, largest-on-bottom"


def test_photos_without_an_annotation_are_unlabeled(tmp_path):
    root = coco(tmp_path / "x", {}, images=[("a.jpg", 5), ("b.jpg", 6)])
    photo(root / "images" / "c.jpg")  # which the file does not list
    data, report = imported(root)
    assert report["photos"]["written"] == {"train": 1, "unlabeled": 2}
    assert [sample.stem for sample in data.samples("unlabeled")] == ["b", "c"]
    data, report = imported(root, "--no-unlabeled")
    assert (masks(data)["train/b"] == 0).all()
    assert "1 photo left out, not listed by the export" in report["notes"]


def test_sub_folders_splits_and_equal_names(tmp_path):
    root = tmp_path / "x"
    for split in ("train2017", "val2017"):
        for folder in ("a", "b"):
            photo(root / split / folder / "1.jpg")
        images = [{"id": n, "file_name": f"{folder}/1.jpg"} for n, folder in enumerate("ab")]
        shapes = [{"image_id": n, "category_id": n, "segmentation": CAR} for n in range(2)]
        categories = [{"id": 0, "name": "car"}, {"id": 1, "name": "tree"}]
        content = {"images": images, "categories": categories, "annotations": shapes}
        write_json(root / "annotations" / f"instances_{split}.json", content)
        write_json(root / "annotations" / f"captions_{split}.json", {"images": images, "annotations": []})
    data, report = imported(root)
    drawn = {name: int(classes.max()) for name, classes in masks(data).items()}
    assert drawn == {"train/a_1": 1, "train/b_1": 2, "val/a_1": 1, "val/b_1": 2}
    assert report["renamed"] == 4
    original = (root / "val2017" / "b" / "1.jpg").read_bytes()
    assert (data.root / "images" / "val" / "b_1.jpg").read_bytes() == original


def test_a_folder_for_each_split(tmp_path):
    root = tmp_path / "x"
    for split in ("train", "val"):
        coco(root / split, {})
    assert list(masks(imported(root)[0])) == ["train/a", "val/a"]


@pytest.mark.parametrize("name", ["annotations.json", "test/annotations.json", "instances_test.json"])
def test_photos_in_folders_of_splits(name, tmp_path):
    """The folders of the photos speak where neither the file nor its folders do."""
    root = tmp_path / "x"
    coco(root, {}, {"image_id": 6}, images=[("train/a.jpg", 5), ("val/b.jpg", 6)])
    (root / name).parent.mkdir(exist_ok=True)
    (root / "annotations" / "instances_default.json").rename(root / name)
    expected = ["test/a", "test/b"] if "test" in name else ["train/a", "val/b"]
    assert list(masks(imported(root)[0])) == expected


def test_several_exports_in_one_folder(tmp_path):
    root = tmp_path / "x"
    for number, folder in enumerate(("monday", "tuesday/late/in/the/evening")):
        coco(root / folder, {"category_id": (1, 7)[number]}, images=[("default/frame_000000.png", 5)])
        path = root / folder / "annotations" / "instances_default.json"
        path.write_text(path.read_text().replace("default/", ""))
    data, report = imported(root)
    assert {name: int(classes.max()) for name, classes in masks(data).items()} == {
        "train/monday_images_default_frame_000000": 1,
        "train/tuesday_late_in_the_evening_images_default_frame_000000": 2,
    }
    assert report["renamed"] == 2


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("as_stored", [False, True])
def test_turned_photos(turn, as_stored, tmp_path):
    """A file that gives the size of the stored pixels was drawn on them; else on the photo as viewers show it."""
    root = coco(tmp_path / "x", {})
    photo(root / "images" / "a.jpg", turn=turn)
    path = root / "annotations" / "instances_default.json"
    content = json.loads(path.read_text())
    sideways = turn >= 5
    if sideways and not as_stored:
        content["images"][0].update(width=HEIGHT, height=WIDTH)
    write_json(path, content)
    data, report = imported(root)
    classes = mask(data, "background", "car", "tree")
    if sideways and as_stored:  # undo EXIF's table by hand: 5 transpose, 6 right, 7 transverse, 8 left
        undo = {5: lambda m: m.T, 6: np.rot90, 7: lambda m: np.rot90(m, 2).T, 8: lambda m: np.rot90(m, -1)}
        classes = undo[turn](classes)
        assert report["turned"] == 1
    assert (classes[CAR_PIXELS] == 1).all()
    assert (classes == 1).sum() == 100


def test_boxes_without_outline_are_ignored_and_points_left_out(tmp_path):
    root = coco(
        tmp_path / "x",
        {},
        {"segmentation": [], "bbox": [0, 0, 3, 4]},
        {"segmentation": [[1, 1, 2, 2]]},
        {"segmentation": []},
    )
    data, report = imported(root)
    classes = masks(data)["train/a"]
    assert (classes[:4, :3] == 255).all()
    assert (classes == 255).sum() == 12
    assert report["objects"]["without_pixels"] == 1
    assert report["objects"]["no_area"] == {"annotation without outline and box": 1}
    assert "annotations without an outline: 2; their boxes are ignored (255)" in report["notes"]
    only_boxes = coco(tmp_path / "y", {"segmentation": [], "bbox": [0, 0, 3, 4]})
    assert "a mask cannot be made of boxes alone" in refusal(only_boxes)


def test_classes_maps_and_background(tmp_path):
    tree = {"segmentation": [[0, 0, 5, 0, 5, 5, 0, 5]], "category_id": 7}
    root = coco(tmp_path / "x", {}, tree, categories=[(1, "car"), (7, "tree"), (8, "lorry")])

    def values(*options):
        data, _ = imported(root, "--no-check", *options)
        classes = masks(data)["train/a"]
        named = [*data.info.classes, *[""] * (255 - len(data.info.classes)), "ignore"]
        return data.info.classes, [named[classes[row, column]] for row, column in ((29, 0), (7, 12), (0, 0))]

    assert values() == (["background", "car", "tree", "lorry"], ["background", "car", "tree"])
    assert values("--background", "ignore") == (["car", "tree", "lorry"], ["ignore", "car", "tree"])
    assert values("--background", "road")[1] == ["road", "car", "tree"]
    assert values("--background", "tree") == (["car", "tree", "lorry"], ["tree", "car", "tree"])
    joined = values("--map", "car=vehicle", "--map", "lorry=vehicle")
    assert joined == (["background", "vehicle", "tree"], ["background", "vehicle", "tree"])
    assert values("--map", "tree=ignore") == (["background", "car", "lorry"], ["background", "car", "ignore"])
    assert values("--classes", "car", "--map", "*=background") == (
        ["background", "car"],
        ["background", "car", "background"],
    )
    assert values("--classes", "tree,car", "--map", "*=ignore", "--background", "ignore")[0] == ["tree", "car"]
    assert "--classes does not speak of tree, lorry" in refusal(root, "--classes", "car")
    assert "the export has no class 'lory'; did you mean lorry?" in refusal(root, "--map", "lory=car")
    assert "write OLD=NEW" in refusal(root, "--map", "car")


def test_ids_that_are_numbers_here_and_texts_there(tmp_path):
    root = coco(tmp_path / "x", {"image_id": "5", "category_id": "7"})
    assert (mask(imported(root)[0], "background", "car", "tree")[CAR_PIXELS] == 2).all()


def test_classes_that_differ_in_case_alone(tmp_path):
    root = coco(tmp_path / "x", {}, {"category_id": 7}, categories=((1, "traffic light"), (7, "Traffic  Light")))
    data, report = imported(root)
    assert data.info.classes == ["background", "traffic light", "Traffic  Light"]
    (note,) = report["notes"]
    assert note.endswith("are two classes; --map 'Traffic  Light'='traffic light' makes them one")
    joined, report = imported(root, "--map", "Traffic  Light=traffic light")
    assert joined.info.classes == ["background", "traffic light"]
    assert report["notes"] == []


def test_a_fraction_becomes_val(tmp_path):
    images = [(f"{index}.jpg", index) for index in range(10)]
    root = coco(tmp_path / "x", *[{"image_id": index} for index in range(8)], images=images)
    data, report = imported(root, "--split", "0.25")
    assert report["photos"]["written"] == {"train": 6, "val": 2, "unlabeled": 2}
    assert len(masks(data)) == 8
    again, _ = imported(root, "--split", "0.25")
    assert list(masks(again)) == list(masks(data))
    assert "write `source`, or the fraction" in refusal(root, "--split", "3")


def test_links_and_missing_photos(tmp_path):
    root = coco(tmp_path / "x", {}, images=[("a.jpg", 5), ("b.jpg", 6)])
    data, _ = imported(root, "--link")
    assert data.samples("train")[0].image.resolve() == root / "images" / "a.jpg"
    (root / "images" / "b.jpg").rename(tmp_path / "b.jpg")
    line = refusal(root)
    assert (
        "instances_default.json: images.1: 1 of 2 photos are missing (b.jpg); name their folder with --images" in line
    )
    _, report = imported(root, "--skip-missing")
    assert report["photos"]["missing"] == ["b.jpg"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "b.jpg").rename(tmp_path / "elsewhere" / "b.jpg")
    _, report = imported(root, "--images", str(tmp_path / "elsewhere"))
    assert report["photos"]["written"] == {"train": 1, "unlabeled": 1}


def test_a_photo_that_is_another(tmp_path):
    root = coco(tmp_path / "x", {})
    photo(root / "images" / "a.jpg", 50, 50)
    assert "drawn on a picture of 40x30, but a.jpg is 50x50" in refusal(root)
    (root / "images" / "a.jpg").write_bytes(b"no photo")
    assert "a.jpg: unreadable photo" in refusal(root)


def test_an_existing_folder_is_left_alone(tmp_path):
    root = coco(tmp_path / "x", {})
    (tmp_path / "imported0").mkdir()
    assert "imported0: exists; name a new folder" in refused_existing(root, tmp_path)


def refused_existing(root, tmp_path):
    from typer.testing import CliRunner

    from semseg_app.cli.main import app

    return str(CliRunner().invoke(app, ["data", "import", str(root), "-o", str(tmp_path / "imported0")]).exception)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"image_id": 9, "category_id": 1}]}, "annotations.0.image_id: no image has the id 9"),
        ({"annotations": [{"image_id": 5, "category_id": 2}]}, "annotations.0.category_id: no category has the id 2"),
        ({"annotations": [{"category_id": 2}]}, "annotations.0.image_id: is missing"),
        ({"annotations": 3}, "annotations: must be a valid array"),
        ({"images": [{"id": 5, "file_name": "a.jpg"}] * 2}, "images.1.id: 5 is the id of two images"),
        ({"images": [{"id": 5, "file_name": "a.jpg"}, {"id": 6, "file_name": "a.jpg"}]}, "is annotated a second time"),
        ({"segmentation": [[1, 2, 3]]}, "annotations.0.segmentation: a polygon must be a list of numbers"),
        ({"segmentation": [["x", 2]]}, "annotations.0.segmentation: a polygon must be a list of numbers"),
        ({"segmentation": "polygon"}, "annotations.0.segmentation: is neither a list of polygons nor run lengths"),
        (
            {"segmentation": [[1, 1, 1e30, 1, 3, 3]]},
            "annotations.0.segmentation: a coordinate is not a number or beyond",
        ),
        (
            {"segmentation": {"counts": [3, 4], "size": [30, 40]}},
            "annotations.0.segmentation: run lengths cover 7 pixels",
        ),
        ({"segmentation": {"counts": [3, 4], "size": [3, 4]}}, "run lengths of 4x3 on a picture of 40x30"),
        ({"segmentation": {"counts": "\x7f", "size": [30, 40]}}, "hold a character that does not belong there"),
        ({"segmentation": {"size": [30, 40]}}, "annotations.0.segmentation: run lengths without `counts`"),
    ],
)
def test_malformed_files(change, message, tmp_path):
    root = coco(tmp_path / "x", change) if "segmentation" in change else coco(tmp_path / "x", {}, more=change)
    line = refusal(root)
    assert message in line
    assert "instances_default.json: " in line


def test_a_file_that_is_cut_off(tmp_path):
    path = coco(tmp_path / "x", {}) / "annotations" / "instances_default.json"
    path.write_text(path.read_text()[:-40])
    assert "instances_default.json: Invalid JSON: EOF while parsing" in refusal(tmp_path / "x")


def test_roboflow_name_of_the_project_is_no_class(tmp_path):
    root = tmp_path / "x"
    photo(root / "valid" / "a.jpg")
    categories = [(0, "yards", "none"), (1, "car", "yards")]
    content = {
        "images": [{"id": 0, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": id, "name": name, "supercategory": above} for id, name, above in categories],
        "annotations": [{"image_id": 0, "category_id": 1, "segmentation": CAR}],
    }
    write_json(root / "valid" / "_annotations.coco.json", content)
    data, _ = imported(root)
    assert data.info.classes == ["background", "car"]
    assert list(masks(data)) == ["val/a"]


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    root = tmp_path_factory.mktemp("streets") / "streets"
    generate(root, train=3, val=2, size=(96, 128))
    return root


@pytest.mark.parametrize("kind", ["compressed", "counts", "polygons", "traced"])
def test_masks_that_others_wrote_come_back(streets, kind, tmp_path):
    """Exact for run lengths; 99.9 % of the pixels for polygons."""
    from semseg_app.data.dataset import open_folder

    data = open_folder(streets)
    root = tmp_path / "x"
    before = {}
    for split in ("train", "val"):
        images, annotations = [], []
        for sample in data.samples(split):
            before[f"{split}/{sample.stem}"] = classes = data.read_label(sample)
            images.append({"id": len(images) + 1, "file_name": sample.image.name})
            (root / split).mkdir(parents=True, exist_ok=True)
            (root / split / sample.image.name).write_bytes(sample.image.read_bytes())
            for index in np.unique(classes[classes < 255]).tolist():
                for shape in segmentations(classes == index, kind):
                    annotations.append({"image_id": len(images), "category_id": index, "segmentation": shape})
        categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES)]
        content = {"images": images, "categories": categories, "annotations": annotations}
        write_json(root / f"instances_{split}.json", content)
    after, report = imported(root, "--background", "ignore", "--overlap", "largest-on-bottom")
    assert after.info.classes == CLASSES
    assert list(masks(after)) == list(before)
    assert report["traced"] == (5 if kind == "traced" else 0)
    for name, classes in masks(after).items():
        equal = (classes == before[name]).mean()
        assert equal == 1 if kind in ("compressed", "counts") else equal >= 0.999, name


def segmentations(region, kind):
    if kind == "polygons":  # of pixel squares that shapely joined; holes are left to the smaller objects in them
        squares = [shapely.box(column, row, column + 1, row + 1) for row, column in np.argwhere(region)]
        whole = shapely.unary_union(squares)
        parts = whole.geoms if isinstance(whole, shapely.MultiPolygon) else [whole]
        return [[np.array(part.exterior.coords)[:-1].ravel().tolist()] for part in parts]
    if kind == "traced":
        contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        return [[contour.ravel().tolist()] for contour in contours]
    if kind == "compressed":
        runs = coco_masks.encode(np.asfortranarray(region, np.uint8))
        return [runs | {"counts": runs["counts"].decode()}]
    flat = region.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flat, [0]))))
    counts = np.diff(np.concatenate(([0], edges, [flat.size])))
    return [{"counts": counts.tolist(), "size": list(region.shape)}]


def test_without_pycocotools_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    line = refusal(coco(tmp_path / "x", {}))
    assert line.endswith("drawing polygons needs the extra `labels`: pip install 'semseg-app[labels]'")
