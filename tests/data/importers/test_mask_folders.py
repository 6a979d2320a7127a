"""Photos beside masks that nothing describes, and masks whose numbers are not what they seem to be."""

import shutil

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
        ("images/{}/img_{}.jpg", "masks/{}/mask_{}.png"),
        ("images/{}/{}.jpg", "masks/{}/mask_{}.png"),
        ("{}_images/{}.png", "{}_labels/{}_label.png"),
        ("images_prepped_{}/{}.png", "annotations_prepped_{}/{}.png"),
        ("{}/north/images_png/{}.png", "{}/north/masks_png/{}.png"),
        ("{}/{}_sat.jpg", "{}/{}_mask.png"),
        ("{}/{}.png", "{}/{}_mask.png"),
        ("{}/{}.jpg", "{}/{}.png"),
        ("{}/images/{}_training.tif", "{}/1st_manual/{}_manual1.gif"),
    ],
)
def test_usual_folders_of_two_splits(photos, labels, tmp_path):
    root = tmp_path / "x"
    for split in ("train", "val"):
        for name in ("a1", "cd_2"):
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
        (BINARY * 255, "the masks hold 0 and 255: 255 becomes class 1"),
        (np.dstack([BINARY * 255] * 3), "the masks are black and white: white becomes class 1"),
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
    assert "the masks hold 0, 1, 2, 255, and --classes names 2; name a class for each number" in refusal(root, *TWO)


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
        (root / f"{name}_mask.png").rename(root / f"{name}_drawn.png")
    assert "no photo in it that is not a mask, too" in refusal(root, "--images", f"{root}", *OWN)


@pytest.mark.parametrize(
    ("saved", "note"),
    [
        (VALUES + 1, "labels 1 to 3 become classes 0 to 2; 0 is ignored"),
        (VALUES * 100, "levels in the order of the classes: 0 = ground, 100 = plant, 200 = tool"),
        (VALUES.astype(np.uint16) * 256, "levels in the order of the classes: 0 = ground, 256 = plant, 512 = tool"),
    ],
)
def test_numbers_that_are_other_than_the_classes(saved, note, tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    save(root / "masks" / "a.png", saved)
    data, report = imported(root, *OWN)
    assert np.array_equal(masks(data)["train/a"], VALUES)
    assert report["notes"] == [note]


COLORS = np.array([[64, 128, 64], [192, 0, 128], [0, 128, 192]], np.uint8)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_dict.csv", "name,r,g,b\nground,64,128,64\nplant,192,0,128\ntool,0,128,192\n"),
        ("labels.txt", "ground\nplant\ntool\n"),
        ("codes.txt", "0: ground\n1: plant\n2: tool\n"),
        ("dataset.json", '{"labels": {"ground": 0, "plant": 1, "tool": 2}, "file_ending": ".png"}'),
        ("id2label.json", '{"0": "ground", "1": "plant", "2": "tool"}'),
        ("data.yaml", "train: images/train\nmasks_dir: masks\nnames: {0: ground, 1: plant, 2: tool}\n"),
    ],
)
def test_a_file_that_names_the_classes(name, text, tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "train" / "a.jpg")
    save(root / "masks" / "train" / "a.png", COLORS[VALUES] if name == "class_dict.csv" else VALUES)
    (root / name).write_text(text)
    data, _ = imported(root, "--no-check")
    assert data.info.classes == ["ground", "plant", "tool"]
    assert np.array_equal(masks(data)["train/a"], VALUES)


def test_nnunet(tmp_path):
    """The number of the channel ends the name of a photo; classes may leave numbers out, and ignore is none."""
    root = tmp_path / "x"
    for case in ("001", "002"):
        photo(root / "imagesTr" / f"case_{case}_0000.png")
        save(root / "labelsTr" / f"case_{case}.png", VALUES * 2)
    (root / "dataset.json").write_text('{"labels": {"ground": 0, "plant": 2, "ignore": 4}, "file_ending": ".png"}')
    data, _ = imported(root, "--no-check")
    assert data.info.classes == ["ground", "plant"]
    assert np.array_equal(masks(data)["train/case_001"], np.array([0, 1, 255])[VALUES])


@pytest.mark.parametrize("line", ["b.jpg", "images/b.jpg masks/b.png", "images/b.jpg,masks/b.png", "b"])
def test_lists_that_hold_photos_out(line, tmp_path):
    root = tmp_path / "x"
    for name in ("a", "b"):
        photo(root / "images" / f"{name}.jpg")
        save(root / "masks" / f"{name}.png")
    (root / "val.txt").write_text(f"{line}\n")
    data, report = imported(root, *OWN)
    assert list(masks(data)) == ["train/a", "val/b"]
    assert report["photos"]["written"] == {"train": 1, "val": 1}


@pytest.mark.parametrize("lists", [("b/0.jpg\nb/1.jpg", "images/a/0.jpg\nx/images/a/1.jpg"), ("b/0\nb/1", "a/0\na/1")])
def test_lists_tell_photos_of_one_name_apart_by_their_folders(lists, tmp_path):
    root = tmp_path / "x"
    for name, values in (("a/0", VALUES), ("a/1", VALUES), ("b/0", BINARY), ("b/1", BINARY)):
        photo(root / "images" / f"{name}.jpg")
        save(root / "masks" / f"{name}.png", values)
    for split, names in zip(("train", "val"), lists, strict=True):
        (root / f"{split}.txt").write_text(names)
    data, _ = imported(root, *OWN)
    written = {name: mask.max() for name, mask in masks(data).items()}
    assert written == {"train/0": 1, "train/1": 1, "val/0": 2, "val/1": 2}
    (root / "val.txt").write_text("0\n")
    assert "val.txt: 0 may be any of" in refusal(root, *OWN)


def test_lists_and_classes_beside_folders_of_any_names(tmp_path):
    for name in ("a", "b"):
        photo(tmp_path / "Input" / f"{name}.jpg")
        save(tmp_path / "GroundTruth" / f"{name}_gt.png")
    (tmp_path / "val.txt").write_text("b\n")
    (tmp_path / "labels.txt").write_text("ground\nplant\ntool\n")
    data, _ = imported(tmp_path / "GroundTruth", "--images", str(tmp_path / "Input"), "--no-check")
    assert (list(masks(data)), data.info.classes) == (["train/a", "val/b"], ["ground", "plant", "tool"])


@pytest.mark.parametrize("labels", ["Truth/{}", "Truth/{}/{}"])
def test_folders_of_photos_that_are_named_after_splits(labels, tmp_path):
    arguments = []
    for split, name in (("train", "a"), ("val", "b")):
        photo(tmp_path / "Input" / split / f"{name}.jpg")
        save(tmp_path / "Truth" / (split if labels.count("{}") == 2 else "") / f"{name}.png")
        arguments += ["--images", str(tmp_path / "Input" / split)]
    data, _ = imported(tmp_path / "Truth", *arguments, *OWN)
    assert list(masks(data)) == ["train/a", "val/b"]


@pytest.mark.parametrize("polygons", ["photos/0.txt", "photos/classes.txt"])
def test_polygons_beside_photos_and_files_that_are_none(polygons, tmp_path):
    root = tmp_path / "x"
    photo(root / "photos" / "0.jpg")
    save(root / "masks" / "0.png")
    (root / polygons).write_text("0 0 0 1 0 1 1\n")
    (root / "data.yaml").write_text("names: [ground, plant, tool]\ntrain: photos\n")
    _, report = imported(root, "--no-check")
    assert report["format"] == ("YOLO segmentation" if "0" in polygons else "masks, classes named by data.yaml")


def test_folders_of_which_each_may_be_the_masks(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    for folder in ("1st_manual", "mask"):  # of DRIVE, whose second is the field of view
        save(root / folder / "a.png")
    assert "its masks may be 1st_manual/ or mask/; choose: `semseg data import" in refusal(root, *OWN)


def test_masks_of_single_objects(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "a.jpg")
    for name in ("a_plant", "a_tool"):
        save(root / "masks" / f"{name}.png", BINARY * 255)
    line = refusal(root, *OWN, "--format", "mask-folders")
    assert "2 masks, and photos: 1; masks of single objects or classes (a_plant.png, a_tool.png) are read by" in line


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
        (
            "a.jpg",
            "masks: no mask in it (.png, .bmp, .tif, .tiff, .gif); JPEG changes the numbers, so save them as PNG",
        ),
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
    line = refusal(root, *OWN)
    assert "masks of colors (" in line
    assert all(color in line for color in ("#000000", "#640101", "#c80202"))
    assert line.endswith(f"write a line `name,red,green,blue` for each into {root / 'class_dict.csv'}")


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
    fix = "write label_map: {0: 0, 255: 1} into dataset.yaml" if kind == "folder" else "save it as 1"
    assert note.endswith(
        f"a.png: holds 0 and 255 only: 255 is ignored; where it is class 1, {fix} (and 1 more such masks)"
    )


RGB = [[200, 0, 0], [0, 200, 0], [0, 0, 200]]


@pytest.mark.parametrize("odd", [1, 2])
def test_palettes_in_another_order(odd, tmp_path):
    """One among several may have another order of colors; where more have, their numbers are in doubt."""
    root = tmp_path / "x"
    for number in range(4):
        photo(root / "images" / f"{number}.jpg")
        colors = RGB[::-1] if number < odd else RGB
        save(root / "masks" / f"{number}.png", VALUES, palette=[channel for color in colors for channel in color])
    if odd > 1:
        assert refusal(root, *OWN).endswith("are the classes all the same, save the masks as grayscale")
    else:
        data, report = imported(root, *OWN)
        assert all(np.array_equal(classes, VALUES) for classes in masks(data).values())
        assert "/0.png: #0000c8 is number 0 in its palette, 2 in most masks" in report["notes"][0]


def test_all_palettes_in_another_order_than_the_description_has(tmp_path):
    root = tmp_path / "x"
    labels = described(root, "folder")
    text = (root / "dataset.yaml").read_text()
    (root / "dataset.yaml").write_text(f"{text}palette: {RGB}\n")
    for name in ("a", "b"):
        save(labels / f"{name}.png", VALUES, palette=[channel for color in RGB[::-1] for channel in color])
    assert "/a.png: #" in (line := refusal(root))
    assert line.endswith(f"save the masks as grayscale (`semseg check {root}` shows all)")


@pytest.mark.parametrize("optimized", [False, True])
def test_one_mask_of_one_bit(optimized, tmp_path):
    """A PNG optimizer writes 255 as one bit, and numbers as a palette of grays; a bool is 1."""
    root = tmp_path / "x"
    labels = described(root, "loose")
    save(labels / "a.png", BINARY.astype(bool))
    save(labels / "b.png", VALUES, palette=[number for number in range(3) for _ in range(3)] if optimized else None)
    if optimized:
        assert "a.png: its white is read as 1" in (line := refusal(root, *OWN))
        assert line.endswith("save it with 8 bits per pixel")
    else:
        data, report = imported(root, *OWN)
        assert np.array_equal(masks(data)["train/a"], BINARY)
        assert len(report["notes"]) == 1


def test_jpegs_called_png(tmp_path):
    """A blank one is what it was; one with edges is not."""
    root = tmp_path / "x"
    labels = described(root, "loose")
    save(labels / "b.png", VALUES)
    Image.fromarray(VALUES * 0).save(labels / "a.png", "jpeg")
    data, report = imported(root, *OWN)
    assert not masks(data)["train/a"].any()
    assert "a.png: a JPEG" in report["notes"][0]
    Image.fromarray(BINARY * 2).save(labels / "a.png", "jpeg")
    assert "a.png: a JPEG" in refusal(root, *OWN)
    assert "semseg check" not in refusal(root, *OWN)  # which cannot open it


# Which folders


def pairs(root, *names):
    for name in names:
        photo(root / "images" / f"{name}.jpg", seed=len(name))
        save(root / "masks" / f"{name}.png")


def test_splits_of_other_names_for_photos_than_for_masks(tmp_path):
    root = tmp_path / "x"
    pairs(root, "train/a", "val/b", "test/c")
    (root / "masks" / "val").rename(root / "masks" / "validation")
    shutil.rmtree(root / "masks" / "test")
    data, report = imported(root, *OWN)
    assert list(masks(data)) == ["train/a", "val/b"]
    assert report["notes"] == ["1 pictures in other folders are not read (images/test/)"]


def test_a_split_that_a_longer_name_means(tmp_path):
    root = tmp_path / "x"
    pairs(root, "night_train/a", "night_val/b")
    assert list(masks(imported(root, *OWN)[0])) == ["train/a", "val/b"]


def test_several_folders_of_photos_and_one_of_masks(tmp_path):
    for name in ("p/a", "q/b"):
        photo(tmp_path / f"{name}.jpg")
    for name in ("a", "b"):
        save(tmp_path / "GroundTruth" / f"{name}.png")
    options = ("--images", f"{tmp_path / 'p'}", "--images", f"{tmp_path / 'q'}", *OWN)
    data, report = imported(tmp_path / "GroundTruth", *options)
    assert list(masks(data)) == ["train/a", "train/b"]
    assert report["notes"] == []
    photo(tmp_path / "q" / "a.jpg", seed=1)
    assert "a.png: is the mask of " in refusal(tmp_path / "GroundTruth", *options)


def test_photos_beside_the_masks_and_elsewhere(tmp_path):
    root = tmp_path / "x"
    pairs(root, "a")
    photo(tmp_path / "photos" / "a.jpg")
    assert "photos lie beside the masks" in refusal(root, "--images", f"{tmp_path / 'photos'}", *OWN)
    assert list(masks(imported(root, "--images", f"{root / 'images'}", *OWN)[0])) == ["train/a"]


def test_255_is_looked_for_in_all_masks(tmp_path):
    """Class 1 is in a single one of them."""
    root = tmp_path / "x"
    for number in range(80):
        photo(root / "images" / f"{number:02}.jpg", 4, 4)
        save(root / "masks" / f"{number:02}.png", np.array([[0, 255], [0, 0]], np.uint8).repeat(2, 0).repeat(2, 1))
    save(root / "masks" / "42.png", np.array([[0, 255], [1, 0]], np.uint8).repeat(2, 0).repeat(2, 1))
    drawn = masks(imported(root, *TWO)[0])
    assert {name for name, classes in drawn.items() if (classes == 1).any()} == {"train/42"}


def test_names_of_a_mac(tmp_path):
    root = tmp_path / "x"
    photo(root / "images" / "Mu\u0308hle.jpg")
    save(root / "masks" / "M\u00fchle_mask.png")
    assert list(masks(imported(root, *OWN)[0])) == ["train/M\u00fchle"]


def test_a_file_is_no_folder_of_masks(tmp_path):
    save(tmp_path / "a.png")
    line = refusal(tmp_path / "a.png", "--format", "mask-folders", *OWN)
    assert line.endswith("a.png: is a file; name the folder of the masks")
