"""Published layouts: tiny trees with the publishers' names, opened and read as they stand."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg_app.data.dataset import SegmentationData
from semseg_app.data.layouts import LAYOUTS, open_dataset, open_unlabeled, published_info
from semseg_app.errors import UserError
from semseg_app.labels import IGNORE


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(path)


def row(path: Path, values: list[int]) -> None:
    """A mask of one row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([values], np.uint8)).save(path)


def stems(data: SegmentationData, split: str) -> list[str]:
    return [sample.stem for sample in data.samples(split)]


def label(data: SegmentationData, split: str) -> list[int]:
    """The one row of the first mask of a split."""
    values: list[int] = data.read_label(data.samples(split)[0])[0].tolist()
    return values


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """VOCdevkit/VOC2012 with a train, b val, c only in the extended masks, d in no list."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for stem in "abcd":
        photo(root / "JPEGImages" / f"{stem}.jpg")
    row(root / "SegmentationClass" / "a.png", [0, 20, 255])
    row(root / "SegmentationClass" / "b.png", [0, 15, 255])
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, content in (("train", "a\n"), ("val", "b\n"), ("trainval", "a\nb\n")):
        (lists / f"{name}.txt").write_text(content)
    return root


def test_voc(voc: Path, tmp_path: Path) -> None:
    data = open_dataset(tmp_path)  # from where the archive was unpacked
    assert data.root == voc
    assert data.info.classes[0] == "background"
    assert (data.num_classes, data.info.palette[0], data.info.palette[15]) == (21, (0, 0, 0), (192, 128, 128))
    assert data.split_names() == ["train", "val", "trainval", "unlabeled"]
    assert (stems(data, "trainval"), stems(data, "unlabeled")) == (["a", "b"], ["c", "d"])
    assert label(data, "train") == [0, 20, IGNORE]


def test_voc_with_extended_masks(voc: Path) -> None:
    for stem in "abc":
        row(voc / "SegmentationClassAug" / f"{stem}.png", [0, 1, 255])
    data = open_dataset(voc)
    assert (stems(data, "train_aug"), stems(data, "unlabeled")) == (["a", "c"], ["d"])  # never val
    assert label(data, "train_aug") == [0, 1, IGNORE]
    assert label(data, "train") == [0, 20, IGNORE]  # the official mask
    (voc / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("JPEGImages/c.jpg SegmentationClassAug/c.png\n")
    assert stems(open_dataset(voc), "trainaug") == ["c"]


def test_voc_lists_of_shared_photos_need_no_prefix(voc: Path) -> None:
    """`a` is in train and trainval, with the same mask: one image, not an ambiguous name."""
    (voc / "splits").mkdir()
    (voc / "splits" / "few.txt").write_text("a\n")
    assert stems(open_dataset(voc), "few") == ["a"]


def test_cityscapes(tmp_path: Path) -> None:
    for split, city in (("train", "aachen"), ("val", "ulm"), ("test", "bonn"), ("train_extra", "hof")):
        frame = f"{city}/{city}_000000_000019"
        photo(tmp_path / "leftImg8bit" / split / f"{frame}_leftImg8bit.png")
        if split != "train_extra":
            base = tmp_path / "gtFine" / split / f"{frame}_gtFine_"
            row(Path(f"{base}labelIds.png"), [0, 3, 7, 8, 11, 19, 23, 26, 29, 30, 33])
            row(Path(f"{base}instanceIds.png"), [0])
    data = open_dataset(tmp_path)
    assert data.split_names() == ["train", "val", "test", "unlabeled"]
    assert stems(data, "train") == ["aachen/aachen_000000_000019"]
    # Of the publishers' table: road 0, sidewalk 1, building 2, traffic light 6, sky 10, car 13, bicycle 18.
    assert label(data, "val") == [255, 255, 0, 1, 2, 6, 10, 13, 255, 255, 18]
    assert data.samples("test")[0].label is None  # its masks are blank
    assert data.samples("unlabeled")[0].label is None
    assert (data.info.classes[13], data.info.palette[13]) == ("car", (0, 0, 142))


def test_cityscapes_with_train_ids_alone(tmp_path: Path) -> None:
    for split, city in (("train", "aachen"), ("val", "ulm")):
        photo(tmp_path / "leftImg8bit" / split / city / f"{city}_0_1_leftImg8bit.png")
        row(tmp_path / "gtFine" / split / city / f"{city}_0_1_gtFine_labelTrainIds.png", [0, 1, 18, 255])
    data = open_dataset(tmp_path)
    assert label(data, "train") == [0, 1, 18, 255]
    assert data.info.classes == published_info("cityscapes.yaml").classes
    (tmp_path / "class_names.txt").write_text("".join(f"own {number}\n" for number in range(19)))
    assert open_dataset(tmp_path).info.classes[18] == "own 18"


def test_ade20k(tmp_path: Path) -> None:
    for folder, stem in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        photo(tmp_path / "ADEChallengeData2016" / "images" / folder / f"{stem}.jpg")
        row(tmp_path / "ADEChallengeData2016" / "annotations" / folder / f"{stem}.png", [0, 1, 150])
    data = open_dataset(tmp_path)
    assert data.split_names() == ["train", "val"]
    assert label(data, "train") == [IGNORE, 0, 149]
    assert (data.info.classes[0], data.info.classes[83], data.info.classes[149]) == ("wall", "truck", "flag")
    assert data.num_classes == 150


def test_coco_stuff(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        photo(tmp_path / "images" / split / "000000000009.jpg")
        # A file holds id - 1: person 1, stop sign 13, banner 92, wood 182.
        row(tmp_path / "annotations" / split / "000000000009.png", [0, 12, 91, 181, 255])
    photo(tmp_path / "images" / "unlabeled2017" / "000000000008.jpg")
    data = open_dataset(tmp_path)
    assert data.split_names() == ["train", "val", "unlabeled"]
    assert data.num_classes == 171
    assert [data.info.classes[index] for index in label(data, "val")[:4]] == ["person", "stop sign", "banner", "wood"]
    assert label(data, "val")[4] == IGNORE
    # The ids that COCO never labeled: street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender,
    # hair brush.
    never = [identity - 1 for identity in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)]
    assert np.flatnonzero(data.lookup < 0).tolist() == [*never, *range(182, 255)]


def test_camvid_as_prepared_for_segnet(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        photo(tmp_path / split / "0001TP_006690.png")
        row(tmp_path / f"{split}annot" / "0001TP_006690.png", [0, 10, 11])
    data = open_dataset(tmp_path)
    assert data.split_names() == ["train", "val", "test"]
    assert label(data, "test") == [0, 10, IGNORE]


def test_camvid_from_cambridge(tmp_path: Path) -> None:
    # Sky, Wall, LaneMkgsNonDriv, Animal, MotorcycleScooter, Void, by the colors of label_colors.txt.
    colors = [[128, 128, 128], [64, 192, 0], [192, 0, 64], [64, 128, 64], [192, 0, 192], [0, 0, 0]]
    frames = ["0001TP_008520", "0001TP_008550", "0006R0_f00930", "0016E5_07957", "0016E5_07959", "0016E5_08159"]
    frames += ["0016E5_08190", "Seq05VD_f00000"]
    for frame in frames:
        photo(tmp_path / "701_StillsRaw_full" / f"{frame}.png")
        path = tmp_path / "LabeledApproved_full" / f"{frame}_L.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.array([colors], np.uint8)).save(path)
    data = open_dataset(tmp_path)
    assert label(data, "train") == [0, 1, 3, 9, 10, IGNORE]
    assert stems(data, "train") == ["0001TP_008520", "0006R0_f00930", "0016E5_07957", "0016E5_08190"]
    assert stems(data, "val") == ["0016E5_07959", "0016E5_08159"]
    assert stems(data, "test") == ["0001TP_008550", "Seq05VD_f00000"]
    (tmp_path / "train.txt").write_text(
        "/data/CamVid/train/0016E5_08159.png /data/CamVid/trainannot/0016E5_08159.png\n"
    )
    data = open_dataset(tmp_path)
    assert data.split_names() == ["train"]
    assert stems(data, "train") == ["0016E5_08159"]


@pytest.mark.parametrize(
    ("layout", "count"),
    [
        ("voc", 21),
        ("cityscapes", 19),
        ("ade20k", 150),
        ("coco-stuff", 171),
        ("camvid-segnet", 11),
        ("camvid-cambridge", 11),
        ("pascal-context", 59),
        ("cadis", 25),
        ("cadis-8", 8),
        ("cadis-17", 17),
    ],
)
def test_published_tables_are_whole(layout: str, count: int) -> None:
    info = published_info(LAYOUTS[layout].info)
    assert len(info.classes) == count
    for mapping in (info.label_map, info.color_map):
        if mapping is not None:  # every class is reached
            assert {*mapping.values()} - {info.ignore_index} == {*range(count)}


def test_pascal_context_is_no_voc(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2010"
    for stem in "ab":
        photo(root / "JPEGImages" / f"{stem}.jpg")
        row(root / "SegmentationClassContext" / f"{stem}.png", [0, 1, 59])
    for folder in ("Segmentation", "SegmentationContext"):
        (root / "ImageSets" / folder).mkdir(parents=True)
    (root / "ImageSets" / "SegmentationContext" / "train.txt").write_text("b\n")
    (root / "ImageSets" / "SegmentationContext" / "val.txt").write_text("a\n")
    data = open_dataset(tmp_path)
    assert (stems(data, "train"), stems(data, "val")) == (["b"], ["a"])
    assert label(data, "train") == [IGNORE, 0, 58]
    assert (data.info.classes[0], data.info.classes[58]) == ("aeroplane", "wood")


def test_cadis_splits_videos(tmp_path: Path) -> None:
    for video in (1, 5, 12):
        photo(tmp_path / f"Video{video:02}" / "Images" / f"Video{video}_frame000090.png")
        row(tmp_path / f"Video{video:02}" / "Labels" / f"Video{video}_frame000090.png", [0, 7, 20, 24, 27, 35, 255])
    photo(tmp_path / "Video01" / "Images" / "Video1_frame000091.png")
    data = open_dataset(tmp_path)
    assert stems(data, "train") == ["Video01/Video1_frame000090", "Video01/Video1_frame000091"]
    assert (stems(data, "val"), stems(data, "test")) == (
        ["Video05/Video5_frame000090"],
        ["Video12/Video12_frame000090"],
    )
    assert label(data, "train") == [0, 7, 20, 24, IGNORE, IGNORE, IGNORE]
    assert data.samples("train")[1].label is None
    assert label(open_dataset(tmp_path, "cadis-8"), "val") == [0, 7, 7, 7, 7, 7, IGNORE]
    assert label(open_dataset(tmp_path, "cadis-17"), "val") == [0, 7, 7, 12, 7, IGNORE, IGNORE]


def test_opening_changes_nothing(tmp_path: Path) -> None:
    """Reading a published set writes nothing."""
    for split in ("train", "val"):
        photo(tmp_path / split / "x.png")
        row(tmp_path / f"{split}annot" / "x.png", [0])
    before = sorted(tmp_path.rglob("*"))
    open_dataset(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_photos_without_labels(tmp_path: Path) -> None:
    root = tmp_path / "holiday"
    photo(root / "a.jpg")
    photo(root / "day 1" / "a.JPG")
    (root / "notes.txt").write_text("x")
    data = open_unlabeled(root)
    assert data.split_names() == ["unlabeled"]
    assert [(sample.stem, sample.label) for sample in data.samples("unlabeled")] == [("a", None), ("day 1/a", None)]
    assert data.read_image(data.samples("unlabeled")[1]).shape == (2, 3, 3)
    assert len(data.fingerprint(data.samples("unlabeled"))) == 16
    assert open_dataset(root, "photos").split_names() == ["unlabeled"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no photos in it or below it"):
        open_unlabeled(tmp_path / "empty")
    with pytest.raises(UserError, match="no such folder"):
        open_unlabeled(tmp_path / "nowhere")


def test_unknown_layouts_say_what_was_looked_for(tmp_path: Path, tiny_dataset: Path) -> None:
    assert open_dataset(tiny_dataset).info.name == "tiny"
    with pytest.raises(UserError, match=r"no photos in it or below it, and no dataset.yaml"):
        open_dataset(tmp_path)
    photo = sorted((tiny_dataset / "images" / "train").iterdir())[0]
    (tmp_path / "trip").mkdir()
    shutil.copy(photo, tmp_path / "trip")
    with pytest.raises(
        UserError, match=r"trip: holds photos, but neither dataset.yaml nor labels .* `semseg data import`"
    ):
        open_dataset(tmp_path / "trip")
    with pytest.raises(UserError) as caught:
        open_dataset(tmp_path)
    for words in (
        "folder: dataset.yaml",
        "voc: JPEGImages/",
        "cityscapes: leftImg8bit/",
        "layout photos",
        str(tmp_path),
    ):
        assert words in str(caught.value)
    with pytest.raises(UserError, match=r"Looked for voc: JPEGImages/ and ImageSets/Segmentation/$"):
        open_dataset(tmp_path, "voc")
    with pytest.raises(
        UserError, match="no layout named 'pascal'; choose one of auto, folder, photos, pascal-context, voc"
    ):
        open_dataset(tmp_path, "pascal")
    with pytest.raises(UserError, match="no such folder"):
        open_dataset(tmp_path / "nowhere")
