"""An export -> a dataset folder, whole or not at all."""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import yaml

from semseg_app.data.importers.annotated import Export, Item, Overlap, Vertices, some
from semseg_app.data.importers.labels import IGNORED, ClassTable, alike
from semseg_app.data.importers.photo_index import address_path
from semseg_app.data.importers.photo_mask import PhotoMask, draw_mask
from semseg_app.data.importers.report import ImportReport, counted
from semseg_app.data.listing import UNREAD_SUFFIXES
from semseg_app.data.parallel import ordered_map
from semseg_app.errors import UserError
from semseg_app.files import atomic_folder
from semseg_app.labels import IGNORE


@dataclass(frozen=True)
class WriteOptions:
    """How the folder is written."""

    overlap: Overlap | None = None
    """None: as the tool does it."""
    vertices: Vertices = "auto"
    unlabeled: bool = True
    """Photos without an annotation go to unlabeled/; False: they get a mask of background alone, and photos that the
    export does not list are left out."""
    val: float | None = None
    """Fraction of the labeled photos that becomes val; None: the splits of the export."""
    seed: int = 0
    """Seed of the draw of val."""
    photos: Literal["copy", "link"] = "copy"
    skip_missing: bool = False
    """Leave out annotations whose photo is not there."""


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
        renamed=sum(stem != _path(item).stem for stem, item in zip(stems, items, strict=True)),
        notes=list(export.notes),
    )
    for name, earlier in alike(table.classes):
        report.notes.append(f"{earlier!r} and {name!r} are two classes; --map {name!r}={earlier!r} makes them one")
    if left := sum(not item.listed for item in export.items) if not options.unlabeled else 0:
        report.notes.append(f"{counted(left, 'photo')} left out, not listed by the export")
    with atomic_folder(out) as folder:
        masks = ordered_map(lambda item: draw_mask(item, table, overlap, options.unlabeled, options.vertices), items)
        jobs = _jobs(folder, items, splits, stems, masks, options)
        # Writing has threads of its own: while one waits for the disk, others draw.
        for number, (split, mask) in enumerate(ordered_map(_store, jobs), 1):
            report.splits[split] += 1
            _count(report, mask)
            if on_progress:
                on_progress(number, len(items))
        if options.val is not None:
            _draw_val(folder, report, options.val, options.seed)
        if not report.splits.keys() - {"unlabeled"}:
            raise UserError(f"{export.title}: no photo has an annotation; there is nothing to learn from")
        if report.objects_read and not report.drawn:
            raise UserError(_nothing_drawn(report))
        report.splits = Counter(dict(sorted(report.splits.items(), key=lambda pair: _rank(pair[0]))))
        info = {"name": out.resolve().name, "classes": table.classes, "palette": [list(it) for it in table.palette]}
        (folder / "dataset.yaml").write_text(
            yaml.safe_dump(info, sort_keys=False, allow_unicode=True, default_flow_style=None), encoding="utf-8"
        )
        (folder / "import.json").write_text(
            json.dumps(report.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8"
        )
    return report


def _nothing_drawn(report: ImportReport) -> str:
    """Every mask would be background and ignored pixels alone, as with a dataset of boxes."""
    parts = {
        "boxes, crowds, without a label or of an ignored class": report.ignored.total(),
        "points or lines": report.no_area.total(),
        "outside the photo or thinner than a pixel": report.without_pixels,
    }
    counts = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
    return f"{report.title}: holds no outline of a class ({counts}); export polygons or masks"


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
                raise UserError(
                    f"{item.source}: {item.photo} is annotated a second time (first in {first.source}); leave one of "
                    "the two out, or import the annotation files one by one"
                )
    if len(missing) == len(items):
        raise UserError("no photo is there; name their folder with --images")
    return [item for item in items if item.photo is not None]


def _path(item: Item) -> PurePosixPath:
    """What the export calls the photo, as a path, also where it gives an address."""
    name = item.name.replace("\\", "/")
    is_address = isinstance(item.photo, Path) and PurePosixPath(name).name != item.photo.name
    return PurePosixPath((address_path(name) if is_address else name).lstrip("/"))


def _stems(items: Sequence[Item], splits: Sequence[str]) -> list[str]:
    """File names without suffix, unique within each split.

    The name that the export gives; else with its folders; else with suffix; else with the folders where the photos lie.
    """
    paths = [_path(item) for item in items]
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
    equal: dict[tuple[str, str], list[int]] = {}
    for index, key in enumerate(zip(splits, stems, strict=True)):
        equal.setdefault(key, []).append(index)
    for indices in equal.values():
        photos = [photo.absolute() for index in indices if isinstance(photo := items[index].photo, Path)]
        if len(photos) == len(indices) > 1:
            top = os.path.commonpath([photo.parent for photo in photos])
            for index, photo in zip(indices, photos, strict=True):
                stems[index] = "_".join(photo.relative_to(top).with_suffix("").parts)
    taken: dict[tuple[str, str], Item] = {}
    for item, split, stem in zip(items, splits, stems, strict=True):
        if (first := taken.setdefault((split, stem), item)) is not item:
            raise UserError(f"{item.source}: {item.name} and {first.name} would both be named {stem}; rename one")
    return stems


def _count(report: ImportReport, mask: PhotoMask) -> None:
    report.drawn += mask.drawn
    report.ignored += mask.ignored
    report.without_pixels += mask.without_pixels
    report.no_area += mask.no_area
    report.objects_read += mask.drawn.total() + mask.ignored.total() + mask.without_pixels + mask.no_area.total()
    report.turned += mask.turned
    report.voted += mask.voted
    report.traced += mask.traced
    if mask.png is not None:
        count = len(report.classes)
        report.class_pixels += mask.pixels[:count]
        report.class_photos += mask.pixels[:count] > 0
        report.ignored_pixels += int(mask.pixels[IGNORE])


class _Job(NamedTuple):
    """The files of one photo."""

    item: Item
    photo: Path
    label: Path
    split: str
    mask: PhotoMask
    link: bool


def _jobs(
    folder: Path,
    items: Sequence[Item],
    splits: Sequence[str],
    stems: Sequence[str],
    masks: Iterable[PhotoMask],
    options: WriteOptions,
) -> Iterator[_Job]:
    """Where the files of each photo go; of unlabeled photos of one name in two splits, the second into a sub-folder."""
    taken = set()
    for item, split, stem, mask in zip(items, splits, stems, masks, strict=True):
        name = stem + mask.suffix
        photo = folder / "images" / split / name
        if mask.png is None:
            photo = folder / "unlabeled" / name
            photo = folder / "unlabeled" / split / name if photo in taken else photo
            taken.add(photo)
        label = folder / "labels" / split / f"{stem}.png"
        yield _Job(item, photo, label, "unlabeled" if mask.png is None else split, mask, options.photos == "link")


def _store(job: _Job) -> tuple[str, PhotoMask]:
    job.photo.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(job.item.photo, bytes):
        _write(job.photo, job.item.photo)
    elif job.item.photo is not None and job.link:
        job.photo.symlink_to(job.item.photo.resolve())
    elif job.item.photo is not None:
        shutil.copyfile(job.item.photo, job.photo)
        _write(job.photo, b"", "ab")
    if job.mask.png is not None:
        job.label.parent.mkdir(parents=True, exist_ok=True)
        _write(job.label, job.mask.png)
        job.mask.png = b""  # only small facts are kept
    return job.split, job.mask


def _write(path: Path, content: bytes, mode: Literal["wb", "ab"] = "wb") -> None:
    """Write through to the disk here, in a thread, so that publishing the folder does not wait for each file."""
    with path.open(mode) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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
