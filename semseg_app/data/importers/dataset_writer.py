"""An export -> a dataset folder, whole or not at all."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import yaml
from PIL import Image

from semseg_app.data.dataset import DECODING_ERRORS
from semseg_app.data.importers.annotated import Drawing, Export, Item, Overlap, PixelMap, Size, some
from semseg_app.data.importers.labels import IGNORED, ClassTable
from semseg_app.data.importers.rasterize import majority, rasterize
from semseg_app.data.importers.report import ImportReport
from semseg_app.data.inspection import TURNED
from semseg_app.data.listing import UNREAD_SUFFIXES
from semseg_app.data.parallel import ordered_map
from semseg_app.errors import UserError
from semseg_app.files import atomic_folder
from semseg_app.labels import IGNORE
from semseg_app.masks import indexed_png
from semseg_app.photos import TURNS, open_photo, orientation

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}
"""Pillow's name of a format -> suffix, for photos that lie in the annotation file itself."""


@dataclass(frozen=True)
class WriteOptions:
    """How the folder is written."""

    overlap: Overlap | None = None
    """None: as the tool does it."""
    unlabeled: bool = True
    """Photos without an annotation go to unlabeled/; False: they get a mask of background alone, and photos that the
    export does not list are left out."""
    val: float | None = None
    """Fraction of the labeled photos that becomes val; None: the splits of the export."""
    seed: int = 0
    """Of the draw of val."""
    photos: Literal["copy", "link"] = "copy"
    skip_missing: bool = False
    """Leave out annotations whose photo is not there."""


@dataclass
class _Mask:
    """One photo, drawn."""

    png: bytes | None
    """None: not annotated."""
    suffix: str
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    drawn: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    without_pixels: int = 0
    no_area: Counter[str] = field(default_factory=Counter)
    turned: bool = False
    voted: bool = False


def write_dataset(
    export: Export,
    table: ClassTable,
    out: Path,
    options: WriteOptions,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Write the dataset folder `out`, which must not exist yet.

    Args:
        export: what was read.
        table: its classes, numbered.
        out: the folder; on an error nothing is left there.
        options: see WriteOptions.
        on_progress: called with (photos done, photos in all).

    Raises:
        UserError: photos that are missing, unreadable or of another size than their annotation says, and shapes
            that cannot be drawn; the message names file and place.
    """
    overlap = _overlap(export, options)
    if not options.unlabeled and table.background == IGNORE:
        raise UserError("--no-unlabeled makes masks of background alone, and the background is ignored; name one")
    items = _present([it for it in export.items if it.listed or options.unlabeled], options.skip_missing)
    splits = [item.split or "train" if options.val is None else "train" for item in items]
    stems = _stems(items, splits)
    report = ImportReport(
        title=export.title,
        overlap=overlap,
        background=IGNORED if table.background == IGNORE else table.classes[table.background],
        classes=table.classes,
        class_pixels=np.zeros(len(table.classes), np.int64),
        class_photos=np.zeros(len(table.classes), np.int64),
        photos_read=len(export.items),
        missing_photos=[item.name for item in export.items if item.photo is None],
        renamed=sum(stem != PurePosixPath(item.name).stem for stem, item in zip(stems, items, strict=True)),
        notes=list(export.notes),
    )
    if left := sum(not item.listed for item in export.items) if not options.unlabeled else 0:
        report.notes.append(f"{left:,} photos that the export does not list were left out")
    with atomic_folder(out) as folder:
        masks = ordered_map(lambda item: _draw(item, table, overlap, options.unlabeled), items)
        for number, (item, split, stem, mask) in enumerate(zip(items, splits, stems, masks, strict=True), 1):
            if mask.png is None:
                photo = _free(folder / "unlabeled", split, stem + mask.suffix)
                report.splits["unlabeled"] += 1
            else:
                photo = folder / "images" / split / (stem + mask.suffix)
                path = folder / "labels" / split / f"{stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(mask.png)
                report.splits[split] += 1
            _place(item, photo, options.photos)
            _count(report, mask)
            if on_progress:
                on_progress(number, len(items))
        if options.val is not None:
            _draw_val(folder, report, options.val, options.seed)
        if not report.splits.keys() - {"unlabeled"}:
            raise UserError(f"{export.title}: no photo has an annotation; there is nothing to learn from")
        report.splits = Counter(dict(sorted(report.splits.items(), key=lambda pair: _rank(pair[0]))))
        info = {"name": out.resolve().name, "classes": table.classes, "palette": [list(it) for it in table.palette]}
        (folder / "dataset.yaml").write_text(
            yaml.safe_dump(info, sort_keys=False, allow_unicode=True, default_flow_style=None), encoding="utf-8"
        )
        (folder / "import.json").write_text(
            json.dumps(report.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8"
        )
    return report


def _overlap(export: Export, options: WriteOptions) -> Overlap:
    if options.overlap == "z-order" and not export.has_z:
        raise UserError(f"--overlap z-order: {export.title} has no z-order; choose one of last, largest-on-bottom")
    return options.overlap or export.overlap


def _present(items: Sequence[Item], skip_missing: bool) -> list[Item]:
    """The items with a photo, no photo twice."""
    missing = [item for item in items if item.photo is None]
    if missing and not skip_missing:
        unread = [item.name for item in missing if PurePosixPath(item.name).suffix.lower() in UNREAD_SUFFIXES]
        fix = f"convert {unread[0]} to JPEG or PNG" if unread else "name their folder with --images"
        names = some([item.name for item in missing])
        raise UserError(
            f"{missing[0].source}: {len(missing):,} of {len(items):,} photos are missing ({names}); {fix}, or leave "
            "them out with --skip-missing"
        )
    owners: dict[Path, Item] = {}
    for item in items:
        if isinstance(item.photo, Path):
            first = owners.setdefault(item.photo, item)
            if first is not item:
                raise UserError(f"{item.source}: {item.photo} is annotated a second time (first in {first.source})")
    if len(missing) == len(items):
        raise UserError("no photo is there; name their folder with --images")
    return [item for item in items if item.photo is not None]


def _stems(items: Sequence[Item], splits: Sequence[str]) -> list[str]:
    """File names without suffix, unique within each split: the photo's own; else with its folders; else with suffix."""
    paths = [PurePosixPath(item.name.replace("\\", "/").lstrip("/")) for item in items]
    ways: tuple[Callable[[PurePosixPath], str], ...] = (
        lambda path: path.stem,
        lambda path: "_".join((*path.parts[:-1], path.stem)),
        lambda path: "_".join((*path.parts[:-1], path.stem, path.suffix[1:])),
    )
    stems = [ways[0](path) for path in paths]
    for way in ways[1:]:
        uses = Counter(zip(splits, stems, strict=True))
        stems = [
            stem if uses[split, stem] == 1 else way(path)
            for path, split, stem in zip(paths, splits, stems, strict=True)
        ]
    taken: dict[tuple[str, str], Item] = {}
    for item, split, stem in zip(items, splits, stems, strict=True):
        if (first := taken.setdefault((split, stem), item)) is not item:
            raise UserError(f"{item.source}: {item.name} and {first.name} would both be named {stem}; rename one")
    return stems


def _draw(item: Item, table: ClassTable, overlap: Overlap, unlabeled: bool) -> _Mask:
    size, turn, suffix = _header(item)
    drawing = item.read(size)
    if drawing is None and not unlabeled:
        drawing = Drawing(versions=([],))
    if drawing is None:
        return _Mask(None, suffix)
    mask = _Mask(None, suffix, voted=len(drawing.versions) > 1, no_area=drawing.no_area)
    frame = drawing.size or size
    if frame != size:
        if turn not in TURNED or frame != (size[1], size[0]):
            raise UserError(
                f"{item.source}: drawn on a picture of {frame[0]}x{frame[1]}, but {item.name} is {size[0]}x{size[1]}; "
                "the export and the photos do not belong together"
            )
        mask.turned = True
    if drawing.pixels is not None:
        classes = _numbered(drawing.pixels, table, item)
    else:
        maps = []
        for objects in drawing.versions:
            drawn, areas = rasterize(objects, frame, table.number, table.background, overlap)
            maps.append(drawn)
            for it, area in zip(objects, areas, strict=True):
                if table.number(it.name) == IGNORE:
                    mask.ignored[it.name or "crowd or unknown"] += 1
                elif not area:
                    mask.without_pixels += 1
                else:
                    mask.drawn[it.name or ""] += 1
        classes = majority(maps)
    if mask.turned:
        classes = np.asarray(Image.fromarray(classes).transpose(TURNS[turn]))
    mask.pixels = np.bincount(classes.ravel(), minlength=256)
    if mask.pixels[IGNORE] < classes.size:  # a mask without any class teaches nothing
        mask.png = indexed_png(classes, table.palette)
    return mask


def _header(item: Item) -> tuple[Size, int, str]:
    """(width, height) as a viewer shows the photo, its EXIF orientation, its suffix."""
    assert item.photo is not None
    source = BytesIO(item.photo) if isinstance(item.photo, bytes) else item.photo
    try:
        with open_photo(source) as image:
            turn = orientation(image)
            if image.format == "TIFF":
                image.load()  # Pillow turns a TIFF while it decodes
            size = image.size
            kind = image.format or ""
    except DECODING_ERRORS as error:
        raise UserError(
            f"{item.photo if isinstance(item.photo, Path) else item.source}: unreadable photo ({error})"
        ) from None
    if turn in TURNED and kind != "TIFF":
        size = size[::-1]
    suffix = item.photo.suffix if isinstance(item.photo, Path) else SUFFIXES.get(kind)
    if suffix is None:
        raise UserError(f"{item.source}: the photo in it is a {kind}, which is not read; save it as JPEG or PNG")
    return size, turn, suffix


def _numbered(pixels: PixelMap, table: ClassTable, item: Item) -> np.ndarray:
    """The values of a mask -> class map uint8 `[H, W]`."""
    if pixels.values.dtype == np.uint8:
        values, inverse = np.flatnonzero(np.bincount(pixels.values.ravel(), minlength=256)), None
    else:
        values, inverse = np.unique(pixels.values, return_inverse=True)
    if strange := [value for value in values.tolist() if value not in pixels.names]:
        raise UserError(f"{item.source}: the mask holds {strange[0]}, which the export does not name")
    numbers = np.array([table.number(pixels.names[value]) for value in values.tolist()], np.uint8)
    if inverse is None:
        lookup = np.zeros(256, np.uint8)
        lookup[values] = numbers
        inverse, numbers = pixels.values, lookup
    classes: np.ndarray = numbers[inverse].reshape(pixels.values.shape)
    return classes


def _count(report: ImportReport, mask: _Mask) -> None:
    report.drawn += mask.drawn
    report.ignored += mask.ignored
    report.without_pixels += mask.without_pixels
    report.no_area += mask.no_area
    report.objects_read += mask.drawn.total() + mask.ignored.total() + mask.without_pixels + mask.no_area.total()
    report.turned += mask.turned
    report.voted += mask.voted
    if mask.png is not None:
        count = len(report.classes)
        report.class_pixels += mask.pixels[:count]
        report.class_photos += mask.pixels[:count] > 0
        report.ignored_pixels += int(mask.pixels[IGNORE])


def _place(item: Item, path: Path, how: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(item.photo, bytes):
        path.write_bytes(item.photo)
    elif item.photo is not None and how == "link":
        path.symlink_to(item.photo.resolve())
    elif item.photo is not None:
        shutil.copyfile(item.photo, path)


def _free(folder: Path, split: str, name: str) -> Path:
    """A path for an unlabeled photo; two splits may have photos of one name."""
    return folder / split / name if (folder / name).exists() else folder / name


def _draw_val(folder: Path, report: ImportReport, fraction: float, seed: int) -> None:
    """Move a fraction of train, at least one photo, to val."""
    photos = sorted((folder / "images" / "train").iterdir()) if report.splits["train"] else []
    count = math.ceil(fraction * len(photos))
    if count >= len(photos):
        raise UserError(f"--split {fraction:g}: nothing of {len(photos)} labeled photos is left to learn from")
    for index in np.random.default_rng(seed).permutation(len(photos))[:count].tolist():
        for path in (photos[index], folder / "labels" / "train" / f"{photos[index].stem}.png"):
            target = path.parent.parent / "val" / path.name
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
    report.splits["train"] -= count
    report.splits["val"] = count


def _rank(split: str) -> tuple[int, str]:
    order = ("train", "val", "test")
    return (order.index(split) if split in order else 4 if split == "unlabeled" else 3, split)
