"""Masks of one class or object each, several for a photo, in the layouts of published datasets and of people."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.annotations import HEIGHT, WIDTH, canvas, imported, masks, photo, refusal

ROAD, CAR = canvas(), canvas()
ROAD[10:] = 255
CAR[12:20, 5:15] = 255
BOTH = np.where(CAR > 0, 1, np.where(ROAD > 0, 2, 0))
"""Classes background, car, road: the car lies on the road, whichever mask is read last."""
TWO_CARS = np.where(CAR > 0, 1, 0)
TWO_CARS[20:26, 30:38] = 1
SECOND = np.where(TWO_CARS > CAR, 255, 0).astype(np.uint8)


def save(path, values=ROAD):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.mark.parametrize(
    ("photos", "labels"),
    [
        ("images/{}.jpg", "masks/{class}/{}.png"),
        ("images/{}.jpg", "masks/{class}/{}_mask.png"),
        ("images/{}.jpg", "{class}_masks/{}.png"),
        ("images/train/{}.jpg", "masks/train/{class}/{}.png"),
        ("CelebA-HQ-img/{}.jpg", "CelebAMask-HQ-mask-anno/0/{}_{class}.png"),
        ("images/{}.jpg", "masks/{class}_{}.png"),
        ("masks and photos/images/{}.jpg", "masks and photos/masks/{}_{class}.png"),
        ("Training_Data/{}.jpg", "Training_GroundTruth/{}_attribute_{class}.png"),
        (
            "1. Original Images/a. Training Set/{}.jpg",
            "2. All Segmentation Groundtruths/a. Training Set/1. {class}/{}_{class}.tif",
        ),
        ("images/{}.png", "masks/{}/{class}.png"),
        ("{}/images/photo.png", "{}/masks/{class}.png"),
        ("{}.jpg", "{}_{class}_mask.png"),
    ],
)
def test_each_class_has_masks_of_its_own(photos, labels, tmp_path):
    root = tmp_path / "x"
    for name in ("a1", "cd_2"):
        photo(root / photos.format(name))
        for kind, values in (("car", CAR), ("road", ROAD)):
            save(root / labels.format(name, **{"class": kind}), values)
    data, report = imported(root, "--no-check")
    assert [name.removeprefix("attribute_").removeprefix("1_") for name in data.info.classes] == [
        "background",
        "car",
        "road",
    ]
    drawn = masks(data)
    assert len(drawn) == 2
    assert all(np.array_equal(classes, BOTH) for classes in drawn.values())
    assert report["notes"] == ["4 masks of single classes, of 2 photos"]
    chosen, _ = imported(root, "--no-check", "--classes", f"background,{data.info.classes[1]}", "--map", "*=background")
    assert all(np.array_equal(classes, BOTH == 1) for classes in masks(chosen).values())


@pytest.mark.parametrize(
    ("photos", "labels"),
    [
        ("stage1_train/{0}/images/{0}.png", "stage1_train/{0}/masks/{1}.png"),
        ("images/{0}.jpg", "masks/{0}_{2}.png"),
        ("images/{0}.jpg", "masks/{0}/{2}.png"),
        ("malignant ({0}).png", "malignant ({0})_mask{3}.png"),
    ],
)
def test_each_object_has_a_mask_of_its_own(photos, labels, tmp_path):
    root = tmp_path / "x"
    for name in ("a1", "b2"):
        photo(root / photos.format(name))
        for number, values in enumerate((CAR, SECOND)):
            ends = (f"{number}f{name}0", number, f"_{number}" if number else "")
            save(root / labels.format(name, *ends), values)
    assert "tell objects apart, not classes; name what all of them show with --classes background,NAME" in refusal(root)
    assert "tell objects apart" in refusal(root, "--classes", "background,car,road")
    for options in ("car", "background,car"):
        data, report = imported(root, "--no-check", "--classes", options)
        assert data.info.classes == ["background", "car"]
        drawn = masks(data)
        assert len(drawn) == 2
        assert all(np.array_equal(classes, TWO_CARS) for classes in drawn.values())
        assert report["objects"]["drawn"] == {"car": 4}


def test_names_with_leading_zeros(tmp_path):
    """As CelebAMask-HQ has them, whose folder 0 is not of the photo 0 alone."""
    root = tmp_path / "x"
    for number in range(4):
        photo(root / "CelebA-HQ-img" / f"{number}.jpg")
        for kind, values in (("car", CAR), ("road", ROAD)):
            save(root / "CelebAMask-HQ-mask-anno" / f"{number // 2}" / f"{number:05}_{kind}.png", values)
    data, _ = imported(root, "--no-check")
    assert data.info.classes == ["background", "car", "road"]
    assert len(masks(data)) == 4
    assert all(np.array_equal(classes, BOTH) for classes in masks(data).values())
    assert "--classes does not speak of car, road" in refusal(root, "--classes", "background,face")


@pytest.mark.parametrize("labels", ["masks/{}_{}_{}.png", "masks/{}/{}{}.png", "masks/{}/{}-{}.png"])
def test_numbers_behind_words(labels, tmp_path):
    """Classes, objects or people: the command says which."""
    root = tmp_path / "x"
    for name in ("a", "b"):
        photo(root / "images" / f"{name}.jpg")
        save(root / labels.format(name, "road", ""), ROAD)
        for number, values in enumerate((CAR, SECOND)):
            save(root / labels.format(name, "car", number + 1), values)
    cars = sorted({path.stem.removeprefix("a_").replace("-", "_") for path in (root / "masks").rglob("*car*")} - {"a"})
    cars = [name for name in cars if not name.startswith("b")]
    line = refusal(root)
    assert f"{cars[0]} and {cars[1]} differ by numbers alone; where each is a class, say --classes {cars[0]}" in line
    assert "where numbers count objects, --classes car,road; where several people drew the same" in line
    data, report = imported(root, "--no-check", "--classes", "car,road")
    assert data.info.classes == ["background", "car", "road"]
    expected = np.where(TWO_CARS, 1, BOTH)
    assert all(np.array_equal(classes, expected) for classes in masks(data).values())
    assert report["notes"] == ["6 masks of single objects, of 2 photos"]
    data, _ = imported(root, "--no-check", "--classes", f"road,{','.join(cars)}", "--background", "ground")
    assert data.info.classes == ["ground", "road", *cars]
    expected = np.where(SECOND > 0, 3, np.where(CAR > 0, 2, np.where(ROAD > 0, 1, 0)))
    assert all(np.array_equal(classes, expected) for classes in masks(data).values())


@pytest.mark.parametrize("labels", ["masks/{1}/{0}_{2}.png", "masks/{0}/{1}/{2}.png"])
def test_objects_in_folders_of_their_classes(labels, tmp_path):
    root = tmp_path / "x"
    for name in ("a", "b"):
        photo(root / "images" / f"{name}.jpg")
        save(root / labels.format(name, "road", 1), ROAD)
        for number, values in enumerate((CAR, SECOND)):
            save(root / labels.format(name, "car", number), values)
    data, _ = imported(root, "--no-check")
    assert data.info.classes == ["background", "car", "road"]
    assert all(np.array_equal(classes, np.where(TWO_CARS, 1, BOTH)) for classes in masks(data).values())


@pytest.mark.parametrize("labels", ["ground truth/{}/a.png", "masks/a_{}.png", "masks/a/{}_mask.png"])
def test_the_ground_is_a_class(labels, tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    save(root / labels.format("ground"), ROAD)
    save(root / labels.format("car"), CAR)
    data, _ = imported(root, "--no-check")
    assert data.info.classes == ["background", "car", "ground"]
    (classes,) = masks(data).values()
    assert np.array_equal(classes, BOTH)


def test_objects_are_a_class_unless_a_folder_numbers_them(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    for folder, values in (("object", CAR), ("road", ROAD), ("GT_Object", ROAD), ("overlays", ROAD)):
        save(root / "masks" / folder / "a.png", values)
    data, report = imported(root, "--no-check")
    assert data.info.classes == ["background", "object", "road"]
    (classes,) = masks(data).values()
    assert np.array_equal(classes, BOTH)
    shown = "masks/GT_Object/a.png, masks/overlays/a.png"
    assert f"2 of the masks show others in colors or numbers, by name ({shown})" in report["notes"]


def test_classes_that_are_numbers(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    for number, values in ((3, CAR), (7, ROAD)):
        save(root / "masks" / f"a_{number}.png", values)
    data, _ = imported(root, "--no-check", "--classes", "3,7")
    assert data.info.classes == ["background", "3", "7"]
    (classes,) = masks(data).values()
    assert np.array_equal(classes, BOTH)


def test_masks_of_several_people(tmp_path):
    root = tmp_path / "x"
    for name in ("a", "b"):
        photo(root / "images" / f"{name}.jpg")
        for person in (1, 2):
            save(root / "masks" / f"annotator{person}" / f"{name}.png", CAR)
    assert "annotator1 and annotator2 differ by numbers alone" in refusal(root, "--classes", "background,car")
    for name in ("a", "b"):
        for person in (1, 2):
            (root / "masks" / f"annotator{person}" / f"{name}.png").rename(root / "masks" / f"{name}_{person}.png")
    _, report = imported(root, "--no-check", "--classes", "background,car")
    assert "masks of car lie on each other; where people drew the same" in report["notes"][1]


@pytest.mark.parametrize("names", [("anna", "bob"), ("coarse", "fine")])
def test_masks_that_all_cover_the_same(names, tmp_path):
    root = tmp_path / "x"
    for name in ("a", "b"):
        photo(root / "images" / f"{name}.jpg")
        for person, values in zip(names, (CAR, np.roll(CAR, 1)), strict=True):
            save(root / "masks" / person / f"{name}.png", values)
    _, report = imported(root, "--no-check")
    assert f"{names[0]} and {names[1]} cover nearly the same pixels" in report["notes"][1]
    save(root / "masks" / names[0] / "b.png", ROAD)
    _, report = imported(root, "--no-check")
    assert len(report["notes"]) == 1


@pytest.mark.parametrize("ending", ["edge", "color", "overlay"])
def test_what_else_shows_the_mask_is_no_class(ending, tmp_path):
    root = tmp_path / "x"
    for name in ("a", "b"):
        photo(root / "images" / f"{name}.jpg")
        save(root / "masks" / f"{name}.png", CAR)
        save(root / "masks" / f"{name}_{ending}.png", ROAD)
    data, report = imported(root, "--no-check", "--classes", "ground,car")
    assert all(np.array_equal(classes, CAR > 0) for classes in masks(data).values())
    assert f"2 of the masks have no photo (a_{ending}.png, b_{ending}.png)" in report["notes"]


def test_colors_beside_masks_of_classes(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    for kind, values in (("car", CAR), ("road", ROAD), ("all_color", ROAD), ("instance_id_RGB", ROAD)):
        save(root / "masks" / f"a_{kind}.png", values)
    data, report = imported(root, "--no-check")
    assert data.info.classes == ["background", "car", "road"]
    shown = "masks/a_all_color.png, masks/a_instance_id_RGB.png"
    assert f"2 of the masks show others in colors or numbers, by name ({shown})" in report["notes"]


def test_photos_in_another_folder(tmp_path, monkeypatch):
    for kind, values in (("car", CAR), ("road", ROAD)):
        save(tmp_path / "all" / "drawn" / kind / "a.png", values)
    photo(tmp_path / "all" / "taken" / "a.png")
    monkeypatch.chdir(tmp_path)
    drawn, taken = Path("all/drawn"), tmp_path / "all" / "taken"
    for root, given in ((drawn.parent, taken), (drawn, taken), (drawn, taken.parent)):
        data, _ = imported(root, "--images", f"{given}", "--no-check")
        (classes,) = masks(data).values()
        assert np.array_equal(classes, BOTH)


def test_photos_that_are_not_all_there(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "1.jpg")
    for number in range(4):
        for kind, values in (("car", CAR), ("road", ROAD)):
            save(root / "masks" / f"{number}_{kind}.png", values)
    data, report = imported(root, "--no-check")
    (classes,) = masks(data).values()
    assert np.array_equal(classes, BOTH)
    assert report["notes"][1].startswith("6 of the masks have no photo")


def test_photos_without_a_mask_and_masks_without_a_photo(tmp_path):
    """Nothing is known of the one; an empty mask says that nothing is there."""
    root = tmp_path / "x"
    for name in ("a", "b", "c"):
        photo(root / "images" / "val" / f"{name}.jpg")
    for kind, values in (("car", CAR), ("road", ROAD)):
        save(root / "masks" / "val" / kind / "a.png", values)
        save(root / "masks" / "val" / kind / "b.png", canvas())
    save(root / "masks" / "val" / "car" / "d.png", CAR)
    data, report = imported(root, "--no-check")
    assert {name: np.unique(classes).tolist() for name, classes in masks(data).items()} == {
        "val/a": [0, 1, 2],
        "val/b": [0],
    }
    assert [sample.stem for sample in data.samples("unlabeled")] == ["c"]
    assert "1 of the masks have no photo (masks/val/car/d.png)" in report["notes"]


@pytest.mark.parametrize("saved_as", ["white", "one", "bool", "palette", "picture", "smoothed", "16 bits"])
def test_what_is_not_black_belongs_to_it(saved_as, tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    save(root / "masks" / "road" / "a.png")
    picture = {
        "white": Image.fromarray(CAR),
        "one": Image.fromarray(CAR // 255),
        "bool": Image.fromarray(CAR > 0),
        "palette": Image.fromarray(CAR // 255),
        "picture": Image.fromarray(np.stack([CAR, CAR // 2, CAR // 4], -1)),
        "smoothed": Image.fromarray(CAR),
        "16 bits": Image.fromarray(CAR.astype(np.uint16) * 257),
    }[saved_as]
    if saved_as == "palette":
        picture.putpalette([0, 0, 0, 200, 30, 30])
    if saved_as == "smoothed":
        edge = CAR.copy()
        edge[12, 5:15], edge[11, 5:15] = 180, 60
        picture = Image.fromarray(edge)
    (root / "masks" / "car").mkdir()
    picture.save(root / "masks" / "car" / "a.png")
    data, _ = imported(root, "--no-check")
    (classes,) = masks(data).values()
    assert np.array_equal(classes, BOTH)


def test_masks_that_hold_more_than_that(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    save(root / "masks" / "road" / "a.png")
    save(root / "masks" / "car" / "a.png", BOTH.astype(np.uint8))
    assert "does not look like an export" in refusal(root)
    line = refusal(root, "--format", "single-masks")
    assert "car/a.png: holds 3 values (0, 1, 2); a mask of a single class or object is black" in line
    for number in range(20):  # a few are looked at to recognize the format
        photo(root / "images" / f"b{number}.jpg")
        for kind in ("car", "road"):
            save(root / "masks" / kind / f"b{number}.png", CAR)
    save(root / "masks" / "car" / "a.png", CAR)
    save(root / "masks" / "car" / "b1.png", BOTH.astype(np.uint8))
    assert "car/b1.png: holds 3 values (0, 1, 2); a mask of a single class or object is black" in refusal(root)
    save(root / "masks" / "car" / "b1.png", CAR[:, :20])
    line = refusal(root)
    assert "road/b1.png: has another size than" in line
    assert "car/b1.png, of the same photo" in line


@pytest.mark.parametrize("what", ["unreadable label", "is a cut-out"])
def test_a_mask_that_cannot_be_read_is_named(what, tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    for kind, values in (("car", CAR), ("road", ROAD)):
        save(root / "masks" / kind / "a.png", values)
    path = root / "masks" / "car" / "a.png"
    if what == "unreadable label":
        path.write_bytes(path.read_bytes()[:60])
    else:
        save(path, np.dstack([np.full_like(CAR, 255)] * 3 + [CAR]))
    assert f"{path}: {what}" in refusal(root)


@pytest.mark.parametrize(
    ("photos", "labels"),
    [
        ("images/{}.jpg", "masks/{}.png"),
        ("images/north/{}.jpg", "masks/north/{}.png"),
        ("north/images/{}.jpg", "north/masks/{}.png"),
        ("images/img_{}.jpg", "masks/mask_{}.png"),
        ("{}.jpg", "{}_mask.png"),
    ],
)
def test_one_mask_for_each_photo_is_another_layout(photos, labels, tmp_path):
    root = tmp_path / "x"
    for name in ("1", "12", "1_2"):
        for folder in ("north", "south"):
            photo(root / photos.replace("north", folder).format(name))
            save(root / labels.replace("north", folder).format(name), CAR)
    data, _ = imported(root, "--no-check", "--classes", "ground,car")
    assert all(np.array_equal(classes, CAR > 0) for classes in masks(data).values())


def test_a_turned_photo(tmp_path):
    """The masks of a photo that EXIF turns may be as its pixels lie in the file."""
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg", turn=6)
    for kind, values in (("car", CAR), ("road", ROAD)):
        save(root / "masks" / kind / "a.png", values)
    data, _ = imported(root, "--no-check")
    (classes,) = masks(data).values()
    assert classes.shape == (WIDTH, HEIGHT)
    assert np.array_equal(classes, np.rot90(BOTH, -1))
