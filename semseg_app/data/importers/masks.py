"""Masks that exist already: CVAT's "Segmentation mask 1.1", Roboflow's masks, VOC folders, the published
layouts, and our own dataset folder, such as the one in which the demo page keeps flagged photos and
corrections.

They can be read where they are (data/layouts.py); importing them writes them with other classes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from semseg_app.data.check_masks import MaskStudy
from semseg_app.data.dataset import DatasetInfo, SegmentationData
from semseg_app.data.findings import Finding
from semseg_app.data.importers.annotated import Drawing, Export, Item, PixelMap, ReadOptions, Size
from semseg_app.data.importers.photo_index import PhotoIndex
from semseg_app.data.inspection import MaskFacts, inspect_mask
from semseg_app.data.listing import Sample, SplitFiles
from semseg_app.data.parallel import ordered_map
from semseg_app.errors import UserError
from semseg_app.labels import IGNORE

VOC_MASKS = ("SegmentationClassPNG", "SegmentationClass")
"""labelme2voc's numbers first; its SegmentationClass may hold arrays."""
GIVEN = "classes named by"
"""Is in the layout of data that nothing describes, so that the doctor cannot open them."""
MISREAD = {
    "gray-palette-mask": "",
    "lossy-mask": "",
    "one-bit-mask": "; save it with 8 bits per pixel",
    "palette-mask": "; where its numbers are the classes all the same, save the masks as grayscale",
}
"""What the doctor finds in masks whose numbers may be other classes than they seem to be, and what more helps."""
MOST_ODD = 0.1
"""Palettes of more of the masks than this are no odd ones out: the numbers of all are in doubt."""


def find_cvat(root: Path) -> list[Path]:
    """labelmap.txt beside SegmentationClass/."""
    return [root] if (root / "labelmap.txt").is_file() and (root / "SegmentationClass").is_dir() else []


def find_roboflow(root: Path) -> list[Path]:
    """_classes.csv in the folder of a split."""
    return [root] if any((root / name / "_classes.csv").is_file() for name in ("train", "valid", "val", "test")) else []


def find_voc(root: Path) -> list[Path]:
    """JPEGImages/ beside a folder of masks."""
    return [root] if (root / "JPEGImages").is_dir() and any((root / name).is_dir() for name in VOC_MASKS) else []


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
    data = _opened(files[0], options)
    return export_of(data, facts_of(data))


def facts_of(data: SegmentationData) -> dict[Path, MaskFacts]:
    """What lies in each mask."""
    paths = {sample.label for files in data.folders.values() for sample in files.samples() if sample.label}
    return dict(ordered_map(lambda path: (path, inspect_mask(path)), sorted(paths)))


def export_of(data: SegmentationData, facts: Mapping[Path, MaskFacts]) -> Export:
    """A dataset as an export. UserError where the numbers of its masks are surely not what they seem to be."""
    doubts = _doubts(data, facts)
    names = dict(enumerate(data.info.classes)) | {IGNORE: None}
    seen: set[Path] = set()
    items, notes = [], doubts
    for split, files in data.folders.items():
        samples = files.samples()
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


def _doubts(data: SegmentationData, facts: Mapping[Path, MaskFacts]) -> list[str]:
    """Notes on masks that may be read wrong. UserError for those that surely are.

    The doctor sees the new masks, which hold plain numbers whatever these ones were saved as.
    """
    study = MaskStudy(data)
    found = [it for path, mask in facts.items() if mask.error is None for it in study.look(f"{path}", mask)[1]]
    found += study.conclude()
    odd = study.renumbered_files() | {it.file for it in found if it.kind == "palette-mask"}
    # A PNG optimizer writes numbers as a palette of grays where it writes 255 as one bit; who saves a bool does not.
    optimized = any(
        len(mask.palette) > 1 and all(color == (value, value, value) for value, color in mask.palette.items())
        for mask in facts.values()
    )
    doubts: dict[str, list[Finding]] = {}
    for finding in found:
        mask = facts[Path(finding.file)]
        is_certain = {
            "gray-palette-mask": True,
            "lossy-mask": len(mask.values or mask.colors or "..") > 1,  # no compression changes a blank one
            "one-bit-mask": optimized,
            "palette-mask": len(odd) > max(1, MOST_ODD * len(facts)) or len(odd) == len(facts),
        }
        if is_certain.get(finding.kind):
            all_of_them = "" if GIVEN in data.layout else f" (`semseg check {data.root}` shows all)"
            raise UserError(f"{finding.file}: {finding.message}{MISREAD[finding.kind]}{all_of_them}")
        if finding.kind in (*MISREAD, "binary-mask"):
            doubts.setdefault(finding.kind, []).append(finding)
    notes = []
    for kind, (first, *more) in doubts.items():
        message = _all_binary(data) if kind == "binary-mask" and study.all_binary() else first.message
        notes.append(f"{first.file}: {message}" + f" (and {len(more):,} more such masks)" * bool(more))
    return notes


def _all_binary(data: SegmentationData) -> str:
    described = (data.root / "dataset.yaml").is_file() and GIVEN not in data.layout
    fix = "write label_map: {0: 0, 255: 1} into dataset.yaml" if described else "save it as 1"
    return f"holds 0 and 255 only: 255 is ignored; where it is class 1, {fix}"


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
    return SegmentationData(root, info, folders, f"VOC folders, {GIVEN} --classes")


def _reader(data: SegmentationData, sample: Sample, names: dict[int, str | None]) -> Callable[[Size], Drawing | None]:
    def read_mask(size: Size) -> Drawing | None:
        if sample.label is None:
            return None
        values = data.read_label(sample)
        return Drawing(pixels=PixelMap(values, names), size=(values.shape[1], values.shape[0]))

    return read_mask
