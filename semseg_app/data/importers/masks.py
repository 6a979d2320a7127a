"""Masks that exist already: CVAT's "Segmentation mask 1.1", Roboflow's masks, VOC folders, COCO-Stuff, the other
published layouts, and our own dataset folder, such as the one in which the demo page keeps flagged photos and
corrections.

They can be read where they are (data/layouts.py); importing them writes them with other classes.
"""

from collections.abc import Callable
from pathlib import Path

from semseg_app.data.check_masks import MaskStudy
from semseg_app.data.dataset import DatasetInfo, SegmentationData
from semseg_app.data.findings import Finding
from semseg_app.data.importers.annotated import Drawing, Export, Item, PixelMap, ReadOptions, Size
from semseg_app.data.importers.photo_index import PhotoIndex
from semseg_app.data.inspection import inspect_mask
from semseg_app.data.listing import Sample, SplitFiles
from semseg_app.data.parallel import ordered_map
from semseg_app.errors import UserError
from semseg_app.labels import IGNORE

VOC_MASKS = ("SegmentationClassPNG", "SegmentationClass")
"""labelme2voc's numbers first; its SegmentationClass may hold arrays."""


MISREAD = ("palette-mask", "gray-palette-mask", "one-bit-mask", "lossy-mask")
"""What the doctor finds in masks whose numbers are other classes than they seem to be."""


def find_cvat(root: Path) -> list[Path]:
    """labelmap.txt beside SegmentationClass/."""
    return [root] if (root / "labelmap.txt").is_file() and (root / "SegmentationClass").is_dir() else []


def find_roboflow(root: Path) -> list[Path]:
    """_classes.csv in the folder of a split."""
    return [root] if any((root / name / "_classes.csv").is_file() for name in ("train", "valid", "val", "test")) else []


def find_voc(root: Path) -> list[Path]:
    """JPEGImages/ beside a folder of masks."""
    return [root] if (root / "JPEGImages").is_dir() and any((root / name).is_dir() for name in VOC_MASKS) else []


def find_coco_stuff(root: Path) -> list[Path]:
    """images/train2017/ or val2017/ with pixel maps of the same name in annotations/."""
    pairs = ((root / "images" / name, root / "annotations" / name) for name in ("train2017", "val2017"))
    return [root] if any(images.is_dir() and masks.is_dir() for images, masks in pairs) else []


def find_published(root: Path) -> list[Path]:
    """Any of the published layouts."""
    from semseg_app.data.layouts import holds_layout  # which knows this package

    return [root] if root.is_dir() and holds_layout(root) else []


def find_folder(root: Path) -> list[Path]:
    """A dataset folder: dataset.yaml with images/ or unlabeled/."""
    if not (root / "dataset.yaml").is_file():
        return []
    return [root] if (root / "images").is_dir() or (root / "unlabeled").is_dir() else []


def read(files: list[Path], photos: PhotoIndex, options: ReadOptions) -> Export:
    """Read a folder as the dataset that it is."""
    return export_of(_opened(files[0], options))


def export_of(data: SegmentationData) -> Export:
    """A dataset as an export. UserError where the numbers of its masks are not what they seem to be."""
    binary = _refuse_misread(data)
    names = dict(enumerate(data.info.classes)) | {IGNORE: None}
    seen: set[Path] = set()
    items, notes = [], [f"{finding.file}: {finding.message}" for finding in binary]
    for split in data.folders:
        samples = data.samples(split)
        new = [sample for sample in samples if sample.image not in seen]
        if len(new) < len(samples):
            notes.append(f"{split}: {len(samples) - len(new):,} of {len(samples):,} photos are in other splits already")
        seen.update(sample.image for sample in new)
        for sample in new:
            photo = sample.image if sample.image.is_file() else None
            name = f"{sample.stem}{sample.image.suffix}"
            source = f"{sample.label or sample.image}"
            items.append(Item(name, photo, _reader(data, sample, names), source, _written_as(split)))
    if data.guessed and find_voc(data.root):
        notes.append(f"{data.layout}; for classes of your own, name them with --classes, in the order of the values")
    colors = dict(zip(data.info.classes, data.info.palette, strict=True))
    title = data.layout if data.layout != "dataset folder" else "masks"
    return Export(title, data.info.classes, items, "last", background=None, colors=colors, notes=notes)


def _refuse_misread(data: SegmentationData) -> list[Finding]:
    """Findings on masks of 0 and 255, which may be meant. UserError for those that are read wrong.

    The doctor sees the new masks, which hold plain numbers whatever these ones were saved as.
    """
    study = MaskStudy(data)
    paths = {sample.label for split in data.folders for sample in data.samples(split) if sample.label}
    found = []
    for path, facts in ordered_map(lambda path: (path, inspect_mask(path)), sorted(paths)):
        if facts.error is None:
            found += study.look(f"{path}", facts)[1]
    found += study.conclude()
    for finding in found:
        if finding.kind in MISREAD:
            raise UserError(f"{finding.file}: {finding.message} (`semseg check {data.root}` shows all)")
    return [finding for finding in found if finding.kind == "binary-mask"][:1]


def _written_as(split: str) -> str | None:
    return None if split in ("default", "unlabeled") else split


def _opened(root: Path, options: ReadOptions) -> SegmentationData:
    """The dataset; VOC folders without a class list have the classes of `--classes`, in the order of the values."""
    from semseg_app.data.class_files import read_class_file
    from semseg_app.data.layouts import open_dataset  # which knows this package

    if not (options.classes and find_voc(root)) or read_class_file(root):
        return open_dataset(root)
    try:
        folders = open_dataset(root, "voc").folders
    except UserError:  # no lists
        masks = next(root / name for name in VOC_MASKS if (root / name).is_dir())
        folders = {"train": SplitFiles(root / "JPEGImages", masks)}
    info = DatasetInfo(name=root.resolve().name, classes=list(options.classes))
    return SegmentationData(root, info, folders, "VOC folders, classes of --classes")


def _reader(data: SegmentationData, sample: Sample, names: dict[int, str | None]) -> Callable[[Size], Drawing | None]:
    def read_mask(size: Size) -> Drawing | None:
        if sample.label is None:
            return None
        values = data.read_label(sample)
        return Drawing(pixels=PixelMap(values, names), size=(values.shape[1], values.shape[0]))

    return read_mask
