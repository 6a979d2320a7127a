"""Masks of one class or object each, several for a photo, in the layouts of published datasets and of people."""

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


def test_photos_in_another_folder(tmp_path):
    for kind, values in (("car", CAR), ("road", ROAD)):
        save(tmp_path / "drawn" / kind / "a.png", values)
    photo(tmp_path / "taken" / "a.jpg")
    data, _ = imported(tmp_path / "drawn", "--images", f"{tmp_path / 'taken'}", "--no-check")
    (classes,) = masks(data).values()
    assert np.array_equal(classes, BOTH)


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
    line = refusal(root, "--format", "single-masks")
    assert "does not look like masks of single classes or objects" in line
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
