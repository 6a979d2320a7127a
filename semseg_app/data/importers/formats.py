"""The annotation formats that can be imported, and finding out which one a folder holds.

A new format is one file beside this one and one row here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from semseg_app.data.importers import (
    coco,
    coco_panoptic,
    cvat,
    label_studio,
    labelme,
    mask_folders,
    masks,
    single_masks,
    supervisely,
    via,
    yolo,
)
from semseg_app.data.importers.annotated import Export, Item, ReadOptions
from semseg_app.data.importers.photo_index import PhotoIndex, equal_end
from semseg_app.errors import UserError, did_you_mean

Read = Callable[[list[Path], PhotoIndex, ReadOptions], Export]


@dataclass(frozen=True)
class Format:
    """One annotation format."""

    title: str
    """For people: "a COCO export"."""
    find: Callable[[Path], list[Path]]
    """A folder or file -> the annotation files of this format; empty where it has none."""
    read: Read


FORMATS = {
    "supervisely": Format("a Supervisely project", supervisely.find, supervisely.read),
    "coco-panoptic": Format("a COCO panoptic export", coco_panoptic.find, coco_panoptic.read),
    "coco": Format("a COCO export", coco.find, coco.read),
    "label-studio": Format("a Label Studio export", label_studio.find, label_studio.read),
    "cvat": Format("CVAT for images or video", cvat.find, cvat.read),
    "yolo": Format("a YOLO dataset", yolo.find, yolo.read),
    "labelme": Format("LabelMe files", labelme.find, labelme.read),
    "via": Format("a VGG Image Annotator export", via.find, via.read),
    "cvat-masks": Format("CVAT's segmentation masks", masks.find_cvat, masks.read),
    "roboflow-masks": Format("Roboflow's semantic masks", masks.find_roboflow, masks.read),
    "voc": Format("VOC folders of masks", masks.find_voc, masks.read),
    "published": Format("a published dataset", masks.find_published, masks.read),
    "folder": Format("a dataset folder", masks.find_folder, masks.read),
    "single-masks": Format("masks of single classes or objects", single_masks.find, single_masks.read),
    "mask-folders": Format("photos beside masks", mask_folders.find, mask_folders.read),
}
"""Name for --format -> format, in the order in which they are tried."""


ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


def recognize_format(root: Path) -> tuple[str, list[Path]] | None:
    """(name in FORMATS, annotation files) of a folder or file; None where it is in none of the formats."""
    for name, candidate in FORMATS.items():
        if files := candidate.find(root):
            return name, files
    return None


def read_export(
    root: Path, name: str = "auto", folders: Sequence[Path] = (), options: ReadOptions | None = None
) -> Export:
    """Read what an annotation tool wrote.

    Args:
        root: the unpacked export, or its annotation file.
        name: a key of FORMATS; "auto" looks.
        folders: where the photos lie, beside `root` itself.
        options: see ReadOptions.

    Raises:
        UserError: nothing of that format, or a malformed file; the message names file and place.
    """
    if not root.exists():
        raise UserError(f"{root}: no such file or folder")
    if root.suffix.lower() in ARCHIVES and root.is_file():
        raise UserError(f"{root}: is an archive; unpack it and name the folder")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--images {folder}: no such folder")
    if name != "auto" and name not in FORMATS:
        raise UserError(
            f"unknown format {name!r}; choose one of auto, {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}"
        )
    options = options or ReadOptions()
    is_recognized = name == "auto"
    name, files = _recognized(root, folders) if is_recognized else (name, _of_format(root, name))
    for option, value, owner in (
        ("--attribute", options.attribute, "via"),
        ("--annotator", options.annotator, "label-studio"),
    ):
        if value is not None and name != owner:
            raise UserError(
                f"{option} {value}: is for {FORMATS[owner].title}, and this is {FORMATS[name].title}; leave it out"
            )
    photos = PhotoIndex([*folders, root if root.is_dir() else root.parent])
    export = FORMATS[name].read(files, photos, options)
    items = _each_photo_for_one_name(export.items)
    notes = [*export.notes, *(_left_out(root, name, files) if is_recognized else ())]
    rest = [Item(photos.relative(path), path, lambda size: None, f"{path}", listed=False) for path in photos.rest()]
    return replace(export, items=[*items, *rest], notes=notes)


def _of_format(root: Path, name: str) -> list[Path]:
    """The annotation files of a format that is named. UserError where there are none."""
    files = [root] if root.is_file() else FORMATS[name].find(root)
    if not files and not (root.is_dir() and name in BESIDE):  # whose readers say what is missing
        raise UserError(f"{root}: does not look like {FORMATS[name].title}; {_known()}")
    return files or [root]


def _recognized(root: Path, folders: Sequence[Path]) -> tuple[str, list[Path]]:
    """The format and its annotation files. UserError where it is none of those that are read."""
    from semseg_app.data.tool_exports import recognize  # which knows this module

    if known := recognize_format(root):
        return known
    if other := recognize(root):
        raise UserError(f"{root}: this is {other}")
    for name in BESIDE if folders else ():
        if _is_beside(name, root, folders):
            return name, [root]
    packed = [path.name for path in sorted(root.iterdir()) if path.suffix.lower() in ARCHIVES] if root.is_dir() else []
    unpack = f"; where {packed[0]} is the export, unpack it first" if packed else ""
    raise UserError(f"{root}: does not look like an export that is known here{unpack}; {_known()}")


BESIDE = ("single-masks", "mask-folders")
"""Formats whose photos may lie in other folders, which are given."""


def _is_beside(name: str, root: Path, folders: Sequence[Path]) -> bool:
    """Whether masks in `root` may be in one of these formats, with photos in `folders`."""
    if name == "single-masks":
        return root.is_dir() and single_masks.fits(root, folders)
    return name == "mask-folders" and mask_folders.holds_masks(root)


def _known() -> str:
    return (
        f"the formats are {', '.join(FORMATS)}; of photos beside masks in folders of any names, name both: `semseg "
        "data import MASKS --images PHOTOS --classes NAME,NAME -o FOLDER`"
    )


def _left_out(root: Path, known: str, files: list[Path]) -> Iterator[str]:
    """What else lies in the folder, in other formats than the known one, that of `files`; a sentence each."""
    read = set(files)
    for name, other in FORMATS.items() if files != [root] else ():  # else they were asked already, or are one folder
        try:
            left = [path for path in other.find(root) if path not in read] if name != known else []
        except UserError:  # of a file that the import does not read
            continue
        if left:
            where = f" ({left[0].relative_to(root)})" if left[0] != root else ""
            yield f"not read: {other.title}{where}, which lies there too; --format {name} reads it"


def _each_photo_for_one_name(items: Sequence[Item]) -> list[Item]:
    """The items, no photo for two names: of `a/1.jpg` and `b/1.jpg` the one that the photo's path ends like has it.

    A name of which nothing disagrees, as `1.jpg`, does mean that photo: it is annotated a second time.
    """
    names = [PurePosixPath(it.name.replace("\\", "/")).parts for it in items]
    ends = [
        equal_end(name, it.photo.parts) if isinstance(it.photo, Path) else 0
        for it, name in zip(items, names, strict=True)
    ]
    best: dict[Path | bytes | None, int] = {}
    for item, end in zip(items, ends, strict=True):
        best[item.photo] = max(end, best.get(item.photo, 0))
    return [
        it if end in (best[it.photo], len(name)) else replace(it, photo=None)
        for it, name, end in zip(items, names, ends, strict=True)
    ]
