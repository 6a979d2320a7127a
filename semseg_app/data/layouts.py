"""Open a dataset as it was published, without copying or renaming a file.

What a dataset is (classes, palette, label map) lies in published/*.yaml, in the format of dataset.yaml. Here is only
where its files lie. Splits are named train, val, trainval, test and unlabeled whatever the publisher calls them.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from semseg_app.data.class_files import read_class_file
from semseg_app.data.dataset import DatasetInfo, SegmentationData, open_folder, read_yaml, require_folder
from semseg_app.data.list_lines import line_names, text_lines
from semseg_app.data.listing import IMAGE_SUFFIXES, SplitFiles, list_files
from semseg_app.data.tool_exports import recognize
from semseg_app.errors import UserError, did_you_mean

PUBLISHED = Path(__file__).parent / "published"
CITYSCAPES = "_gtFine_labelIds.png"
"""How the masks of Cityscapes end."""


@dataclass(frozen=True)
class Layout:
    """A published layout."""

    info: str
    """File in published/."""
    looks_for: str
    """What `find` needs, for the message when nothing fits."""
    find: Callable[[Path], dict[str, SplitFiles]]
    """Root -> splits; empty when the root has another layout."""
    inner: tuple[str, ...] = ()
    """Where the archive's own top folders put the root, seen from the folder it was unpacked in."""

    def places(self, root: Path) -> list[Path]:
        """Folders that may be the root."""
        return [root, *(root / inner for inner in self.inner)]


def holds_layout(root: Path) -> bool:
    """Whether a folder has one of the published layouts."""
    return any(layout.find(place) for layout in LAYOUTS.values() for place in layout.places(root))


def open_dataset(root: Path | str, layout: str = "auto") -> SegmentationData:
    """Open a dataset folder or a published dataset.

    Args:
        root: the folder.
        layout: "auto" looks; "folder" is the dataset folder, "photos" any folder of photos without labels
            (`open_unlabeled`), else one of LAYOUTS.

    Raises:
        UserError: the folder is missing or has not the layout; the message lists what was looked for.
    """
    root = Path(root)
    require_folder(root)
    if layout == "photos":
        return open_unlabeled(root)
    if layout == "folder" or (layout == "auto" and (root / "dataset.yaml").is_file()):
        return open_folder(root)
    if layout == "auto" and (other := next((root / name for name in MISNAMED if (root / name).is_file()), None)):
        raise UserError(f"{other}: is called dataset.yaml here; rename it")
    if layout != "auto" and layout not in LAYOUTS:
        known = ["auto", "folder", "photos", *LAYOUTS]
        raise UserError(f"no layout named {layout!r}; choose one of {', '.join(known)}{did_you_mean(layout, known)}")
    candidates = LAYOUTS if layout == "auto" else {layout: LAYOUTS[layout]}
    for name, candidate in candidates.items():
        for place in candidate.places(root):
            if splits := candidate.find(place):
                return _published_or_own(place, name, candidate, splits)
    if layout == "auto" and (roboflow := _roboflow(root)):
        return roboflow
    if layout == "auto" and (export := recognize(root)):
        raise UserError(f"{root}: this is {export}")
    looked_for = "; ".join(f"{name}: {candidate.looks_for}" for name, candidate in candidates.items())
    if layout == "auto" and not list_files(root, IMAGE_SUFFIXES, nested=True):
        raise UserError(
            f"{root}: no photos in it or below it, and no dataset.yaml; see docs/data.md for what goes where"
        )
    if layout == "auto" and list_files(root, IMAGE_SUFFIXES, nested=False):
        raise UserError(
            f"{root}: holds photos, but neither dataset.yaml nor labels in a known layout; write the first and put "
            "masks into labels/, see docs/data.md, or turn the export of an annotation tool into a dataset folder with "
            "`semseg data import`, see docs/labels.md; for photos without labels say layout photos"
        )
    if layout == "auto":
        looked_for = (
            f"folder: dataset.yaml; {looked_for}; for photos without labels say layout photos; photos beside masks in "
            "folders of any names become a dataset with `semseg data import MASKS --images PHOTOS --classes NAME,NAME "
            "-o FOLDER`"
        )
    raise UserError(f"{root}: not a dataset that is known here. Looked for {looked_for}")


def _published_or_own(root: Path, name: str, layout: Layout, splits: dict[str, SplitFiles]) -> SegmentationData:
    """The published dataset, or the user's own data in its folders where a class file says so."""
    published = published_info(layout.info)
    own = read_class_file(root)
    if own is None or [known.lower() for known in own[1].classes] == [known.lower() for known in published.classes]:
        return SegmentationData(root, published, splits, f"read as {published.name} (layout {name})", own is None)
    path, info = own
    return SegmentationData(root, info, splits, f"own classes of {path.name} in the layout {name}")


def _roboflow(root: Path) -> SegmentationData | None:
    """Roboflow's "Semantic Segmentation Masks": in each split's folder photos, `<photo>_mask.png`, `_classes.csv`."""
    names = {"train": "train", "valid": "val", "val": "val", "test": "test"}
    folders = [root / folder for folder in names if (root / folder / "_classes.csv").is_file()]
    described = {folder: read_class_file(folder) for folder in folders}
    infos = [(read[0], read[1].model_copy(update={"name": root.resolve().name})) for read in described.values() if read]
    if not infos:
        return None
    path, info = infos[0]
    for other, its in infos[1:]:
        if its != info:
            raise UserError(f"{other}: other classes or values than in {path}; export all splits together")
    splits = {
        names[folder.name]: SplitFiles(folder, folder, image_suffix=".jpg", label_suffix="_mask.png")
        for folder in folders
    }
    if len(splits) < len(folders):
        raise UserError(f"{root}: valid/ and val/ are one split; move the files of one into the other")
    return SegmentationData(root, info, splits, "Roboflow's masks, classes of _classes.csv")


def open_unlabeled(root: Path | str) -> SegmentationData:
    """Any folder of photos, nested or not, as data with the one split "unlabeled".

    Its `info` has one nominal class, because there is nothing to name. UserError when no photo is found.
    """
    root = Path(root)
    require_folder(root)
    if not list_files(root, IMAGE_SUFFIXES, nested=True):
        raise UserError(f"{root}: no photos in it or below it ({', '.join(IMAGE_SUFFIXES)})")
    info = DatasetInfo(name=root.resolve().name or "photos", classes=["unlabeled"])
    return SegmentationData(root, info, {"unlabeled": SplitFiles(root, nested=True)})


def published_info(file: str) -> DatasetInfo:
    """Classes, palette and maps of a published dataset."""
    return DatasetInfo.model_validate(read_yaml(PUBLISHED / file))


def _voc(root: Path) -> dict[str, SplitFiles]:
    """Lists in ImageSets/Segmentation choose from JPEGImages; photos in no list are the unlabeled split.

    Lists beyond the official three (train_aug.txt, trainaug.txt) take their masks from SegmentationClassAug. Where
    that folder has no list, train_aug is made of its masks and train, without val: the usual 10,582 images.
    """
    photos, lists = root / "JPEGImages", root / "ImageSets" / "Segmentation"
    official, extended = root / "SegmentationClass", root / "SegmentationClassAug"
    if not photos.is_dir():
        return {}
    if not lists.is_dir():
        return _voc_without_lists(photos, root / "SegmentationClassPNG", official, read_class_file(root) is not None)
    every = SplitFiles(photos, nested=True)
    known = {stem for stem, _ in every.photos()}
    splits: dict[str, SplitFiles] = {}
    for name in ("train", "val", "trainval", "test"):
        if (lists / f"{name}.txt").is_file():
            masks = None if name == "test" else official
            splits[name] = replace(every, labels=masks, stems=_stems(lists / f"{name}.txt", known))
    more = {path.stem: _stems(path, known) for path in sorted(lists.glob("*.txt")) if path.stem not in splits}
    # Lists of other names (CVAT's default.txt) take the official masks where there are no extended ones.
    masks = extended if extended.is_dir() else official
    if extended.is_dir() and not more:
        everything = set(replace(every, labels=extended).masks())
        everything.update(splits["train"].stems or () if "train" in splits else ())
        everything.difference_update(splits["val"].stems or () if "val" in splits else ())
        more = {"train_aug": tuple(sorted(everything))}
    splits.update({name: replace(every, labels=masks, stems=stems) for name, stems in more.items()})
    listed = {stem for split in splits.values() for stem in split.stems or ()}
    if rest := tuple(sorted(known - listed)):
        splits["unlabeled"] = replace(every, stems=rest)
    return splits


def _pascal_context(root: Path) -> dict[str, SplitFiles]:
    """VOC 2010 with the masks and lists that mmsegmentation's converter makes of Pascal-Context's annotations."""
    photos, masks = root / "JPEGImages", root / "SegmentationClassContext"
    lists = root / "ImageSets" / "SegmentationContext"
    if not photos.is_dir() or not masks.is_dir() or not lists.is_dir():
        return {}
    known = {stem for stem, _ in SplitFiles(photos).photos()}
    return {
        name: SplitFiles(photos, masks, stems=_stems(lists / f"{name}.txt", known))
        for name in ("train", "val")
        if (lists / f"{name}.txt").is_file()
    }


def _cadis(root: Path) -> dict[str, SplitFiles]:
    """Video01/Images and Video01/Labels, to Video25; whole videos make up a split."""
    parts = ("Images", "Labels")
    if not any((root / "Video01" / part).is_dir() for part in parts):
        return {}
    every = SplitFiles(root, root, image_suffix=".png", nested=True, parents=parts)
    frames: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for stem, _ in every.photos():
        number = int(re.sub(r"\D", "", stem.partition("/")[0]) or 0)
        frames[next((name for name, videos in CADIS_VIDEOS.items() if number in videos), "train")].append(stem)
    return {name: replace(every, stems=tuple(stems)) for name, stems in frames.items() if stems}


def _voc_without_lists(photos: Path, numbers: Path, colors: Path, has_classes: bool) -> dict[str, SplitFiles]:
    """What labelme2voc writes: photos with a mask are the train split, the others are unlabeled."""
    masks = numbers if numbers.is_dir() else colors
    if not has_classes or not masks.is_dir():
        return {}
    labeled = SplitFiles(photos, masks).masks()
    names = [stem for stem, _ in list_files(photos, IMAGE_SUFFIXES, nested=False)]
    splits = {"train": SplitFiles(photos, masks, stems=tuple(name for name in names if name in labeled))}
    if rest := tuple(name for name in names if name not in labeled):
        splits["unlabeled"] = SplitFiles(photos, stems=rest)
    return splits


def _cityscapes_train_ids(root: Path) -> dict[str, SplitFiles]:
    """Where only the masks of cityscapesScripts' createTrainIdLabelImgs were kept."""
    if any((root / "gtFine").rglob(f"*{CITYSCAPES}")):
        return {}
    suffix = "_gtFine_labelTrainIds.png"
    return _cityscapes(root, suffix) if any((root / "gtFine").rglob(f"*{suffix}")) else {}


def _cityscapes(root: Path, label_suffix: str = CITYSCAPES) -> dict[str, SplitFiles]:
    """leftImg8bit/<split>/<city>; test (its masks are blank) and train_extra (coarse masks only) have no labels."""
    photos, masks = root / "leftImg8bit", root / "gtFine"
    if not photos.is_dir() or not masks.is_dir():
        return {}
    names = {"train": "train", "val": "val", "test": "test", "train_extra": "unlabeled"}
    return {
        name: SplitFiles(
            photos / folder,
            masks / folder if name in ("train", "val") and (masks / folder).is_dir() else None,
            image_suffix="_leftImg8bit.png",
            label_suffix=label_suffix,
            nested=True,
        )
        for folder, name in names.items()
        if (photos / folder).is_dir()
    }


def _ade20k(root: Path) -> dict[str, SplitFiles]:
    return _paired(root, {"train": "training", "val": "validation"})


def _coco_stuff(root: Path) -> dict[str, SplitFiles]:
    splits = _paired(root, {"train": "train2017", "val": "val2017"})
    if splits and (root / "images" / "unlabeled2017").is_dir():
        splits["unlabeled"] = SplitFiles(root / "images" / "unlabeled2017")
    return splits


def _paired(root: Path, folders: dict[str, str]) -> dict[str, SplitFiles]:
    """images/<folder> and annotations/<folder>, for each split whose both folders are there."""
    pairs = {name: (root / "images" / folder, root / "annotations" / folder) for name, folder in folders.items()}
    return {name: SplitFiles(*pair) for name, pair in pairs.items() if pair[0].is_dir() and pair[1].is_dir()}


def _camvid_segnet(root: Path) -> dict[str, SplitFiles]:
    """train/ and trainannot/, as SegNet has them; beside a class file any name, as in CVAT's "CamVid 1.0"."""
    usual = ("train", "val", "test")
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and (root / f"{path.name}annot").is_dir())
    own = bool(folders) and read_class_file(root) is not None
    names = [name for name in usual if name in folders] + [name for name in folders if own and name not in usual]
    return {name: SplitFiles(root / name, root / f"{name}annot", nested=own) for name in names}


def _camvid_cambridge(root: Path) -> dict[str, SplitFiles]:
    """One folder of photos and one of color masks; splits from train.txt, val.txt, test.txt or by the usual rule."""
    photos, masks = root / "701_StillsRaw_full", root / "LabeledApproved_full"
    if not photos.is_dir() or not masks.is_dir():
        return {}
    every = SplitFiles(photos, masks, image_suffix=".png", label_suffix="_L.png")
    names = [stem for stem, _ in every.photos()]
    lists = {name: root / f"{name}.txt" for name in ("train", "val", "test")}
    stems = {name: _stems(path, set(names)) for name, path in lists.items() if path.is_file()}
    if not stems:
        stems = {
            split: tuple(name for name in names if _camvid_split(name) == split) for split in ("train", "val", "test")
        }
    return {name: replace(every, stems=chosen) for name, chosen in stems.items()}


def _camvid_split(stem: str) -> str:
    """Which of the 367 train, 101 val and 233 test frames: the lists published with SegNet follow the sequences."""
    sequence, _, frame = stem.partition("_")
    number = int(re.sub(r"\D", "", frame) or 0)
    if sequence == "Seq05VD" or (sequence == "0001TP" and number > 8520):
        return "test"
    return "val" if sequence == "0016E5" and 7959 <= number <= 8159 else "train"


def _stems(listing: Path, known: Collection[str]) -> tuple[str, ...]:
    """The images that a published list names, one per line: as a stem, a file name or a path, perhaps with its mask.

    A line that means none of the `known` stems stays what it most probably is, so that the missing photo can be named.
    """
    lines = [line.strip() for line in text_lines(listing) if line.strip()]
    stems = []
    for line in lines:
        names = list(line_names(line, ()))
        is_name = not re.search(r"[./\\]", line)
        stems.append(next((name for name in names if name in known), line if is_name else names[-1]))
    return tuple(stems)


MISNAMED = ("dataset.yml", "Dataset.yaml", "dataset.yaml.txt")

CADIS_VIDEOS = {"val": (5, 7, 16), "test": (2, 12, 22)}
"""The published split (Grammatikopoulou et al., 2021); the other 19 videos are train."""

LAYOUTS = {
    # Before voc, whose folders it has too.
    "pascal-context": Layout(
        "pascal_context.yaml",
        "JPEGImages/, SegmentationClassContext/ and ImageSets/SegmentationContext/",
        _pascal_context,
        inner=("VOCdevkit/VOC2010", "VOC2010"),
    ),
    "voc": Layout("voc.yaml", "JPEGImages/ and ImageSets/Segmentation/", _voc, inner=("VOCdevkit/VOC2012", "VOC2012")),
    # Before cityscapes, whose folders it has too.
    "cityscapes-train-ids": Layout(
        "cityscapes_train_ids.yaml", "leftImg8bit/ and gtFine/ without *_labelIds.png", _cityscapes_train_ids
    ),
    "cityscapes": Layout("cityscapes.yaml", "leftImg8bit/ and gtFine/", _cityscapes),
    "ade20k": Layout(
        "ade20k.yaml", "images/training/ and annotations/training/", _ade20k, inner=("ADEChallengeData2016",)
    ),
    "coco-stuff": Layout("coco_stuff.yaml", "images/train2017/ and annotations/train2017/", _coco_stuff),
    "camvid-segnet": Layout("camvid_segnet.yaml", "train/ and trainannot/", _camvid_segnet),
    "camvid-cambridge": Layout(
        "camvid_cambridge.yaml", "701_StillsRaw_full/ and LabeledApproved_full/", _camvid_cambridge
    ),
    "cadis": Layout("cadis.yaml", "Video01/Images/ and Video01/Labels/", _cadis),
    # Coarser tasks on the same files.
    "cadis-8": Layout("cadis_8.yaml", "Video01/Images/ and Video01/Labels/", _cadis),
    "cadis-17": Layout("cadis_17.yaml", "Video01/Images/ and Video01/Labels/", _cadis),
}
