"""Photos beside masks that nothing describes, and masks whose numbers are not what they seem to be."""

import numpy as np
import pytest
from PIL import Image
from support.annotations import HEIGHT, WIDTH, imported, masks, photo, refusal

VALUES = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8)
BINARY = (VALUES > 0).astype(np.uint8)
OWN = ("--classes", "ground,plant,tool", "--no-check")
TWO = ("--classes", "ground,plant", "--no-check")


def save(path, values=VALUES, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


@pytest.mark.parametrize(
    ("photos", "labels"),
    [
        ("img_dir/{}/{}.jpg", "ann_dir/{}/{}.png"),
        ("images/{}/{}.jpg", "masks/{}/{}.tif"),
        ("{}/images/{}.jpg", "{}/masks/{}.png"),
        ("{}/{}.jpg", "{}_masks/{}_mask.png"),
        ("{}/images/{}_sat.jpg", "{}/masks/{}_map.png"),
        ("{}/images/{}.jpg", "{}/labels/{}.jpg.png"),
    ],
)
def test_usual_folders_of_two_splits(photos, labels, tmp_path):
    root = tmp_path / "x"
    for split in ("train", "val"):
        for name in ("a", "cd_2"):
            photo(root / photos.format(split, name))
            save(root / labels.format(split, name))
    assert "name the classes of the values 0, 1, ... with --classes NAME,NAME" in refusal(root)
    data, _ = imported(root, *OWN)
    assert data.info.classes == ["ground", "plant", "tool"]
    drawn = masks(data)
    assert [name.split("/")[0] for name in drawn] == ["train", "train", "val", "val"]
    assert all(np.array_equal(classes, VALUES) for classes in drawn.values())


def test_folders_of_any_names(tmp_path):
    """The masks are imported, and --images names the photos; those without a mask are unlabeled."""
    for split in ("train", "val"):
        photo(tmp_path / "Input" / split / "ISIC_01.jpg")
        save(tmp_path / "GroundTruth" / split / "ISIC_01_segmentation.png")
    photo(tmp_path / "Input" / "val" / "ISIC_02.jpg")
    data, _ = imported(tmp_path / "GroundTruth", "--images", f"{tmp_path / 'Input'}", *OWN)
    drawn = masks(data)
    assert [name.split("/")[0] for name in drawn] == ["train", "val"]
    assert all(np.array_equal(classes, VALUES) for classes in drawn.values())
    assert len(data.samples("unlabeled")) == 1


def test_several_folders_of_one_split(tmp_path):
    root = tmp_path / "x"
    for folder in ("north", "south"):
        photo(root / folder / "images" / "a.jpg", seed=len(folder))
        save(root / folder / "masks" / "a.png", VALUES if folder == "north" else VALUES[::-1])
    data, report = imported(root, *OWN)
    assert report["photos"]["written"] == {"train": 2}
    found = {sample.stem: data.read_pair(sample) for sample in data.samples("train")}
    for name, folder, expected in (("north", "north", VALUES), ("south", "south", VALUES[::-1])):
        (stem,) = [stem for stem in found if name in stem]
        pixels = np.asarray(Image.open(root / folder / "images" / "a.jpg").convert("RGB"))
        assert np.array_equal(found[stem][0], pixels)
        assert np.array_equal(found[stem][1], expected)


@pytest.mark.parametrize(
    ("saved", "note"),
    [
        (BINARY * 255, "the masks hold 0 and 255; 255 is read as plant"),
        (np.dstack([BINARY * 255] * 3), "the masks are black and white; white is read as plant"),
        (np.dstack([BINARY] * 3), None),
        (BINARY.astype(np.uint16), None),
    ],
)
def test_two_classes_as_people_save_them(saved, note, tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    save(root / "masks" / "a.png", saved)
    data, report = imported(root, *TWO)
    assert np.array_equal(masks(data)["train/a"], BINARY)
    assert report["notes"] == ([note] if note else [])


def test_255_is_ignored_beside_other_numbers(tmp_path):
    root = tmp_path / "x"
    values = VALUES.copy()
    values[0] = 255
    photo(root / "images" / "a.jpg")
    save(root / "masks" / "a.png", values)
    assert np.array_equal(masks(imported(root, *OWN)[0])["train/a"], values)
    assert "is not one of the 2 classes nor ignore" in refusal(root, *TWO)


@pytest.mark.parametrize("end", ["_sat", ""])
def test_photos_and_masks_in_one_folder(end, tmp_path):
    root = tmp_path / "x"
    for name in ("1", "2"):
        photo(root / f"{name}{end}.jpg")
        save(root / f"{name}_mask.png")
    data, report = imported(root, "--images", f"{root}", *OWN)
    assert report["photos"]["written"] == {"train": 2}
    assert all(np.array_equal(classes, VALUES) for classes in masks(data).values())
    for name in ("1", "2"):
        (root / f"{name}{end}.jpg").rename(root / f"{name}{end}.png")
    assert "no photo in it that is not a mask, too" in refusal(root, "--images", f"{root}", *OWN)


def test_masks_without_photos_are_counted(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    save(root / "masks" / "a.png")
    save(root / "masks" / "b.png")
    assert imported(root, *OWN)[1]["notes"] == ["1 of the masks have no photo (b.png)"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a2.png", "masks: no mask has the name of a photo, with or without an ending of all masks; rename a2.png"),
        ("a_2.png", "masks: no mask has the name of a photo, with or without an ending of all masks; rename a_2.png"),
        ("a.jpg", "masks: no mask in it (.png, .bmp, .tif, .tiff); other formats change the numbers"),
    ],
)
def test_masks_that_fit_no_photo(name, message, tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    save(root / "masks" / name)
    assert message in refusal(root, *OWN)


def test_colors_without_a_description(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    save(root / "masks" / "a.png", np.dstack([VALUES * 100, VALUES, VALUES]))
    assert "masks/a.png: mask has mode RGB, not one number per pixel" in refusal(root, *OWN)


# What the doctor would see in these masks, and no longer in the new ones.


def described(root, kind):
    """A dataset folder, VOC folders with names, or folders that nothing describes, with photos; where masks go."""
    photos, labels = {
        "folder": ("images/train", "labels/train"),
        "voc": ("JPEGImages", "SegmentationClass"),
        "loose": ("images", "masks"),
    }[kind]
    for name in ("a", "b"):
        photo(root / photos / f"{name}.jpg")
    if kind == "folder":
        (root / "dataset.yaml").write_text("name: x\nclasses: [ground, plant, tool]\n")
    if kind == "voc":
        (root / "class_names.txt").write_text("ground\nplant\ntool\n")
    return root / labels


@pytest.mark.parametrize("kind", ["folder", "voc", "loose"])
def test_numbers_that_an_optimizer_moved_into_the_palette(kind, tmp_path):
    """Mask a holds the classes 0 and 2; optimized, its indices are 0 and 1, and its palette has the grays 0 and 2."""
    root = tmp_path / "x"
    labels = described(root, kind)
    save(labels / "a.png", BINARY, palette=[0, 0, 0, 2, 2, 2])
    save(labels / "b.png", VALUES)
    line = refusal(root, *(OWN if kind == "loose" else ()))
    assert (
        "/a.png: its palette of grays holds the class numbers, not its indices (0 shows gray 0, 1 shows gray 2" in line
    )


@pytest.mark.parametrize("kind", ["folder", "voc"])
def test_binary_masks_of_a_described_dataset(kind, tmp_path):
    root = tmp_path / "x"
    labels = described(root, kind)
    for name in ("a", "b"):
        save(labels / f"{name}.png", BINARY * 255)
    data, report = imported(root, "--no-check")
    assert np.array_equal(masks(data)["train/a"], BINARY * 255)
    (note,) = report["notes"]
    assert note.endswith("a.png: holds 0 and 255 only; --fix-map reads 255 as class 1")
