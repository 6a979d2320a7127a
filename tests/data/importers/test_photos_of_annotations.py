"""Which photo an annotation gets, and which annotation files of a folder are read."""

import base64
import json

import numpy as np
import pytest
import yaml
from PIL import Image
from support.annotations import HEIGHT, WIDTH, imported, masks, photo, refusal, write_json
from typer.testing import CliRunner

from semseg_app.cli.main import app

SQUARE = [[10.0, 5.0, 20.0, 5.0, 20.0, 15.0, 10.0, 15.0]]
LINE = "0 0.25 0.2 0.5 0.2 0.5 0.5 0.25 0.5\n"


def coco(path, *names, **more):
    content = {
        "images": [{"id": id, "file_name": name, "width": WIDTH, "height": HEIGHT} for id, name in enumerate(names)],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": id, "image_id": id, "category_id": 1, "segmentation": SQUARE} for id, _ in enumerate(names)
        ],
    }
    return write_json(path, content | more)


def labelme(path, image):
    shape = {"label": "car", "points": [[10, 6], [20, 6], [20, 15]], "shape_type": "polygon"}
    return write_json(path, {"shapes": [shape], "imagePath": image, "imageWidth": WIDTH, "imageHeight": HEIGHT})


def yolo(root, name, *, photos=None):
    photo((photos or root / "images" / "train") / f"{name}.jpg")
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / f"{name}.txt").write_text(LINE)
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "names": ["car"]}))
    return root


def supervisely(root, name):
    photo(root / "ds" / "img" / name)
    figure = {"classTitle": "car", "geometryType": "polygon", "points": {"exterior": [[10, 6], [19, 6], [19, 14]]}}
    write_json(root / "ds" / "ann" / f"{name}.json", {"size": {"width": WIDTH, "height": HEIGHT}, "objects": [figure]})
    write_json(root / "meta.json", {"classes": [{"title": "car", "color": "#C06060"}], "tags": []})


# Which photo


def test_a_photo_of_another_folder_is_another_photo(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "cam2" / "1.jpg")
    own = photo(root / "images" / "cam1" / "2.jpg", seed=1)
    coco(root / "a.json", "cam1/1.jpg", "cam1/2.jpg")
    assert "1 of 2 photos are missing (cam1/1.jpg)" in refusal(root)
    data, _ = imported(root, "--skip-missing")
    assert list(masks(data)) == ["train/2"]
    assert data.samples("train")[0].image.read_bytes() == own.read_bytes()


@pytest.mark.parametrize(
    ("name", "there", "photos"),
    [
        ("cam1/images/1.jpg", ["x/cam1/images/2.jpg", "x/cam2/images/1.jpg"], []),
        ("cam1/1.jpg", ["x/cam1/2.jpg", "P/cam2/1.jpg"], ["P/cam2"]),
        ("cam1/1.jpg", ["P/cam1/2.jpg", "P/cam2/1.jpg"], ["P/cam1", "P/cam2"]),
        ("cam1/1.jpg", ["x/cam1/sub/2.jpg", "x/cam2/1.jpg"], []),
    ],
)
def test_the_whole_path_says_which_folder(name, there, photos, tmp_path):
    """The photo that is named is missing, and its folder is here."""
    for path in there:
        photo(tmp_path / path)
    coco(tmp_path / "x" / "a.json", name)
    options = [option for folder in photos for option in ("--images", f"{tmp_path / folder}")]
    assert f"photos are missing ({name})" in refusal(tmp_path / "x", *options)


def test_folders_that_are_here_under_the_named_one(tmp_path):
    root = tmp_path / "x"
    photo(root / "cam1" / "night" / "1.jpg")
    photo(root / "cam2" / "1.jpg")
    photo(root / "masks" / "pics" / "2.png")  # no folder of photos
    photo(root / "2.png")
    coco(root / "a.json", "cam1/1.jpg", "pics/2.png")
    data, _ = imported(root)
    assert (root / "cam1" / "night" / "1.jpg").read_bytes() in {it.image.read_bytes() for it in data.samples("train")}
    assert len(masks(data)) == 2


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_names_the_one_with_the_folder_gets_the_photo(first, tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "cam2" / "1.jpg")
    names = ["cam1/1.jpg", "cam2/1.jpg"]
    coco(root / "a.json", names[first], names[1 - first])
    assert "1 of 2 photos are missing (cam1/1.jpg)" in refusal(root)
    assert list(masks(imported(root, "--skip-missing")[0])) == ["train/1"]


@pytest.mark.parametrize(
    "name",
    ["D:\\pics\\1.jpg", "/home/ann/pics/1.jpg", "https://host.com/pics/1.jpg?token=a%2Fb", "pics/1.JPG", "1.jpg"],
)
def test_folders_of_another_machine_do_not_matter(name, tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "1.jpg")
    coco(root / "a.json", name)
    assert list(masks(imported(root)[0])) == ["train/1"]


@pytest.mark.parametrize("contributor", ["Label Studio", "Label Studio Converter"])
def test_photos_without_the_prefix_of_label_studio(contributor, tmp_path):
    """Its COCO and YOLO exports can be had without the photos, whose names got a prefix when they were uploaded."""
    photo(tmp_path / "photos" / "20260101-a.jpg")
    root = tmp_path / "x"
    coco(root / "result.json", "images/1d2c3b4a-20260101-a.jpg", info={"contributor": contributor})
    data, report = imported(root, "--images", f"{tmp_path / 'photos'}")
    assert list(masks(data)) == ["train/20260101-a"]
    assert ["its JSON is exact" in note for note in report["notes"]] == [True] * contributor.endswith("Converter")

    root = tmp_path / "y"
    (root / "labels").mkdir(parents=True)
    (root / "images").mkdir()
    (root / "classes.txt").write_text("car\n")
    (root / "labels" / "1d2c3b4a-20260101-a.txt").write_text(LINE)
    assert "20260101-a.txt: no photo is called 20260101-a; name the folder of the photos" in refusal(root)
    data, _ = imported(root, "--images", f"{tmp_path / 'photos'}")
    assert (masks(data)["train/20260101-a"] == 1).sum() == 90


def test_names_of_a_mac(tmp_path):
    """Its file names have an accent as a character of its own."""
    root = tmp_path / "x"
    photo(root / "Ha\u0308user" / "Mu\u0308hle.jpg")
    photo(root / "Garten" / "a.jpg")
    coco(root / "a.json", "H\u00e4user/M\u00fchle.jpg", "Garten/a.jpg")
    assert len(masks(imported(root)[0])) == 2


def test_photos_that_were_converted(tmp_path):
    """The import says itself that a HEIC is to be converted."""
    root = tmp_path / "x"
    coco(root / "a.json", "a.HEIC")
    photo(root / "masks" / "a.png")
    assert "photos are missing (a.HEIC); convert a.HEIC to JPEG or PNG" in refusal(root)
    photo(root / "photos" / "a.jpg")
    assert list(masks(imported(root)[0])) == ["train/a"]


def test_other_tools_write_no_prefix(tmp_path):
    root = tmp_path / "x"
    photo(root / "a.jpg")
    coco(root / "a.json", "20260101-a.jpg")
    assert "1 of 1 photos are missing (20260101-a.jpg)" in refusal(root)


def test_polygons_of_yolo_without_the_photos(tmp_path):
    root = yolo(tmp_path / "x", "a", photos=tmp_path / "photos")
    (root / "train.txt").write_text("data/images/train/a.jpg\n")
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "train.txt", "names": ["car"]}))
    data, _ = imported(root, "--images", f"{tmp_path / 'photos'}")
    assert (masks(data)["train/a"] == 1).sum() == 90


def polygons(root, *names, **content):
    """data.yaml and files of polygons; those of an odd number are empty."""
    for number, name in enumerate(names):
        (root / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "labels" / name).write_text(LINE if number % 2 == 0 else "")
    (root / "data.yaml").write_text(yaml.safe_dump({"names": ["car"]} | content))
    return root


def test_polygons_of_another_folder_are_of_another_photo(tmp_path):
    for name in ("cam1/1", "cam2/1", "cam2/2", "cam2/20260101-a"):
        photo(tmp_path / "photos" / f"{name}.jpg")
    root = polygons(tmp_path / "x", "cam1/1.txt", "cam2/2.txt", "a.txt", train=f"{tmp_path / 'photos'}")
    data, _ = imported(root)
    labeled = [sample.image.read_bytes() for sample in data.samples("train")]
    assert sorted(labeled) == sorted(
        (tmp_path / "photos" / f"{name}.jpg").read_bytes() for name in ("cam1/1", "cam2/2")
    )
    assert len(data.samples("unlabeled")) == 2
    root = polygons(tmp_path / "y", "cam1/1.txt", "cam2/2.txt", train=f"{tmp_path / 'photos' / 'cam2'}")
    assert list(masks(imported(root)[0])) == ["train/2"]


def test_polygons_beside_a_folder_of_photos_elsewhere(tmp_path):
    photo(tmp_path / "photos" / "a.jpg")
    assert list(masks(imported(polygons(tmp_path / "x", "a.txt", train="../photos"))[0])) == ["train/a"]


def test_polygons_that_fit_several_photos_or_the_other_way_round(tmp_path):
    for name in ("p/1", "q/1"):
        photo(tmp_path / "photos" / f"{name}.jpg")
    root = polygons(tmp_path / "x", "1.txt", train=f"{tmp_path / 'photos'}")
    assert "labels/1.txt: fits " in refusal(root)
    root = polygons(tmp_path / "y", "r/1.txt", "s/1.txt", train=f"{tmp_path / 'photos' / 'p'}")
    assert "fit equally well; leave one" in refusal(root)


@pytest.mark.parametrize("names", [("a",), ("11111111-a", "22222222-a")])
def test_a_name_that_was_uploaded_twice(names, tmp_path):
    """Label Studio tells the two apart by its prefix."""
    for name in names:
        photo(tmp_path / "photos" / f"{name}.jpg")
    root = polygons(tmp_path / "x", "11111111-a.txt", "22222222-a.txt")
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("car\n")
    options = ("--images", f"{tmp_path / 'photos'}")
    if names == ("a",):
        assert "22222222-a.txt fit equally well; leave one" in refusal(root, *options)
    else:
        drawn = masks(imported(root, *options)[0])
        assert {name: bool(classes.any()) for name, classes in drawn.items()} == {
            "train/11111111-a": True,
            "train/22222222-a": False,
        }


@pytest.mark.parametrize("tool", ["labelme", "masks", "masks of classes"])
def test_what_was_imported_into_the_folder_does_not_count_the_next_time(tool, tmp_path):
    root = tmp_path / "x"
    for name in ("a", "b"):
        photo(root / "images" / f"{name}.jpg")
        if tool == "labelme":
            labelme(root / "images" / f"{name}.json", f"{name}.jpg")
        for folder in {"labelme": [], "masks": ["masks"], "masks of classes": ["masks/car", "masks/road"]}[tool]:
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.new("L", (WIDTH, HEIGHT), 1).save(root / folder / f"{name}.png")
    options = ["--classes", "ground,car"] if tool == "masks" else []
    for out in ("first", "second"):
        command = ["data", "import", f"{root}", "-o", f"{root / out}", "--json", "--no-check", *options]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert json.loads(result.stdout)["photos"]["written"] == {"train": 2}


def test_labelme_files_that_were_renamed_with_their_photos(tmp_path):
    """labelme leaves the old name in the file."""
    root = tmp_path / "x"
    photo(root / "a" / "yard_1.jpg")
    labelme(root / "a" / "yard_1.json", "DSC0001.jpg")
    assert list(masks(imported(root)[0])) == ["train/yard_1"]


@pytest.mark.parametrize(("folder", "embedded"), [("json", True), ("images", False)])
def test_labelme_files_that_hold_their_photo(folder, embedded, tmp_path):
    """A photo of the file's name is another one, where it does not lie beside it."""
    root = tmp_path / "x"
    other = photo(root / "images" / "1.jpg").read_bytes()
    own = photo(tmp_path / "own.jpg", seed=1).read_bytes()
    path = labelme(root / folder / "1.json", "orig.jpg")
    write_json(path, json.loads(path.read_text()) | {"imageData": base64.b64encode(own).decode()})
    data, _ = imported(root)
    assert data.samples("train")[0].image.read_bytes() == (own if embedded else other)
    assert ("unlabeled" in data.folders) is embedded


def test_labelme_files_that_were_renamed_in_a_folder_of_their_own(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "val" / "1.jpg")
    labelme(root / "json" / "val" / "1.json", "orig.jpg")
    assert list(masks(imported(root)[0])) == ["val/1"]
    (root / "json" / "val").rename(root / "json" / "other")
    assert "photos are missing (" in refusal(root)


def test_labelme_names_a_photo_in_the_folder_of_the_file(tmp_path):
    root = tmp_path / "x"
    photo(root / "a" / "1.jpg")
    photo(root / "b" / "2.jpg")
    labelme(root / "b" / "1.json", "1.jpg")
    assert "b/1.json: 1 of 3 photos are missing (b/1.jpg)" in refusal(root)


def test_labelme_files_in_a_folder_of_their_own(tmp_path):
    root = tmp_path / "x"
    for split in ("train", "val"):
        photo(root / "images" / split / "1.jpg", seed=len(split))
        labelme(root / "json" / split / "1.json", "1.jpg")
    data, _ = imported(root)
    assert list(masks(data)) == ["train/1", "val/1"]
    for split in ("train", "val"):
        (sample,) = data.samples(split)
        assert sample.image.read_bytes() == (root / "images" / split / "1.jpg").read_bytes()


# Which files


def test_coco_files_of_any_names(tmp_path):
    root = tmp_path / "x"
    for split in ("train", "val"):
        photo(root / split / f"{split}1.jpg")
    coco(root / "annotations" / "instances_train.json", "train1.jpg")
    coco(root / "annotations" / "yard_val.json", "val1.jpg")
    assert list(masks(imported(root)[0])) == ["train/train1", "val/val1"]


@pytest.mark.parametrize("subsets", [("north", "south"), ("Train", "Validation")])
def test_subsets_of_cvat_with_equal_names(subsets, tmp_path):
    root = tmp_path / "x"
    for number, subset in enumerate(subsets):
        photo(root / "images" / subset / "a.jpg", seed=number)
        square = [[10.0, 5.0, 20.0 + number, 5.0, 20.0 + number, 15.0, 10.0, 15.0]]
        annotations = [{"id": 0, "image_id": 0, "category_id": 1, "segmentation": square}]
        coco(root / "annotations" / f"instances_{subset}.json", "a.jpg", annotations=annotations)
    data, _ = imported(root)
    drawn = [data.read_pair(sample) for split in data.folders for sample in data.samples(split)]
    for number, subset in enumerate(subsets):
        pixels = np.asarray(Image.open(root / "images" / subset / "a.jpg").convert("RGB"))
        (classes,) = [classes for image, classes in drawn if np.array_equal(image, pixels)]
        assert (classes == 1).sum() == 10 * (10 + number)


def test_a_photo_that_the_subset_of_cvat_lacks(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "north" / "b.jpg")
    photo(root / "images" / "south" / "a.jpg")
    coco(root / "annotations" / "instances_north.json", "a.jpg", "b.jpg")
    assert "photos are missing (a.jpg)" in refusal(root)


def test_only_instances_name_a_subset(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg", seed=1)
    own = photo(root / "yard" / "a.jpg")
    coco(root / "yard" / "person_images.json", "a.jpg")
    assert imported(root)[0].samples("train")[0].image.read_bytes() == own.read_bytes()


def test_key_points_of_other_photos(tmp_path):
    root = tmp_path / "x"
    for name in ("1.jpg", "2.jpg"):
        photo(root / "images" / name)
    coco(root / "annotations" / "instances_default.json", "1.jpg")
    coco(root / "annotations" / "person_keypoints_default.json", "2.jpg")
    data, report = imported(root)
    assert list(masks(data)) == ["train/1", "train/2"]
    assert report["notes"] == []


def test_key_points_of_the_same_photos_are_left_out(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    coco(root / "annotations" / "instances_default.json", "a.jpg")
    coco(root / "annotations" / "person_keypoints_default.json", "a.jpg")
    data, report = imported(root)
    assert list(masks(data)) == ["train/a"]
    assert report["notes"] == ["person_keypoints_default.json: left out; instances_default.json has the same photos"]


@pytest.mark.parametrize("named", ["a.jpg", "images/a.jpg"])
def test_the_same_photo_in_two_files(named, tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    coco(root / "cars.json", named)
    coco(root / "more.json", "a.jpg")
    assert "a.jpg is annotated a second time (first in" in (line := refusal(root))
    assert "leave one of the two out, or import the annotation files one by one" in line


def test_a_coco_file_among_files_of_other_things(tmp_path):
    """Downloads of photo services have a small JSON file beside each photo."""
    root = tmp_path / "x"
    for number in range(101):
        write_json(root / f"A{number}.jpg.json", {"title": f"A{number}.jpg"})
    photo(root / "A0.jpg")
    coco(root / "annotations.json", "A0.jpg")
    assert list(masks(imported(root)[0])) == ["train/A0"]


def test_several_yolo_datasets(tmp_path):
    root = tmp_path / "x"
    for name in ("a", "b"):
        yolo(root / name, name)
    (root / "b" / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "names": ["tree", "car"]}))
    data, _ = imported(root)
    assert data.info.classes == ["background", "car", "tree"]
    assert {name: np.unique(classes).tolist() for name, classes in masks(data).items()} == {
        "train/a": [0, 1],
        "train/b": [0, 2],
    }


def test_many_yolo_datasets(tmp_path):
    for number in range(22):
        yolo(tmp_path / "x" / f"{number}", f"p{number}")
    assert len(masks(imported(tmp_path / "x")[0])) == 22


def test_a_cloned_program_brings_data_yaml_files_of_its_own(tmp_path):
    root = yolo(tmp_path / "x", "a")
    (root / "yolov5" / "data").mkdir(parents=True)
    theirs = {"path": "../datasets/coco", "train": "train2017.txt", "val": "val2017.txt", "names": ["person"]}
    (root / "yolov5" / "data" / "coco.yaml").write_text(yaml.safe_dump(theirs))
    data, report = imported(root)
    assert data.info.classes == ["background", "car"]
    assert report["notes"] == [f"{root}/yolov5/data/coco.yaml: left out; the photos that it names are not there"]


def test_a_yolo_dataset_that_validates_on_train(tmp_path):
    root = yolo(tmp_path / "x", "a")
    content = {"train": "images/train", "val": "images/train", "names": ["car"]}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    data, report = imported(root)
    assert list(masks(data)) == ["train/a"]
    assert report["notes"] == ["data.yaml: val: 1 of 1 photos were named before, and stay where they were first"]
    (root / "copy.yaml").write_text(yaml.safe_dump(content | {"names": ["tree"]}))
    assert "names other classes than another data.yaml for the same photos; import one" in refusal(root)


def test_several_supervisely_projects_and_files_of_a_mac(tmp_path):
    root = tmp_path / "x"
    for name in ("a", "b"):
        supervisely(root / name, f"{name}.jpg")
    (root / "a" / "ds" / "ann" / "._a.jpg.json").write_bytes(b"\0\5\x16\7")
    (root / "a" / "ds" / "img" / "._a.jpg").write_bytes(b"\0\5\x16\7")
    assert list(masks(imported(root)[0])) == ["train/a", "train/b"]


def test_a_supervisely_project_with_another_meta_file_below(tmp_path):
    root = tmp_path / "x"
    supervisely(root, "a.jpg")
    (root / "ds" / "meta.json").write_bytes((root / "meta.json").read_bytes())
    assert list(masks(imported(root)[0])) == ["train/a"]


def test_files_of_another_format_are_named(tmp_path):
    root = tmp_path / "x"
    photo(root / "a" / "1.jpg")
    photo(root / "b" / "2.jpg")
    coco(root / "a" / "cars.json", "1.jpg")
    labelme(root / "b" / "2.json", "2.jpg")
    data, report = imported(root)
    assert list(masks(data)) == ["train/1"]
    assert report["notes"] == ["not read: LabelMe files (b/2.json), which lies there too; --format labelme reads it"]
    assert imported(root, "--format", "coco")[1]["notes"] == []


def test_a_folder_that_only_looks_like_another_format(tmp_path):
    """A list in Latin-1 that the import does not read is no reason to refuse the export."""
    root = tmp_path / "x"
    photo(root / "JPEGImages" / "a.jpg")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_bytes("M\u00fchle\n".encode("latin-1"))
    coco(root / "a.json", "a.jpg")
    assert imported(root)[1]["notes"] == []
    (root / "a.json").unlink()
    assert refusal(root).endswith("train.txt: not a text file in UTF-8; save it as one")


def test_other_exports_with_the_photos_named(tmp_path):
    """A folder of pictures is one of masks only where it is nothing else."""
    root = tmp_path / "x"
    photo(root / "a.png")
    write_json(root / "a-asset.json", {"asset": {"name": "a.png"}, "regions": []})
    assert "this is a VoTT export" in refusal(root, "--images", f"{root}")


def test_archives_and_links_that_lead_nowhere(tmp_path):
    root = tmp_path / "x"
    photo(root / "a.jpg")
    (root / "backup.zip").write_bytes(b"PK")
    (root / "table.csv").symlink_to("nowhere.csv")
    line = refusal(root)
    assert "does not look like an export that is known here; where backup.zip is the export, unpack it first" in line


@pytest.mark.parametrize(("option", "tool"), [("--attribute", "VGG Image Annotator"), ("--annotator", "Label Studio")])
def test_options_of_other_tools_are_refused(option, tool, tmp_path):
    root = tmp_path / "x"
    photo(root / "a.jpg")
    coco(root / "a.json", "a.jpg")
    line = refusal(root, option, "color")
    assert f"{option} color: is for a {tool} export, and this is a COCO export; leave it out" in line
