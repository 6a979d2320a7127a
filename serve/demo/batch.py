"""Many photos at once: files, a folder or a ZIP in; a ZIP with what `semseg predict` writes out."""

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from semseg_app.data.listing import IMAGE_SUFFIXES
from semseg_app.errors import UserError
from semseg_app.inference.decode import decode_image
from semseg_app.inference.inputs import result_names
from semseg_app.inference.results import ResultFolder
from semseg_app.serve.scheduling.registry import ServedModel

MOST_PHOTOS = 200
MOST_LARGEST_PHOTOS = 16
"""All photos together may have as many bytes as so many of the largest size."""


class Batch(NamedTuple):
    """What became of many photos."""

    archive: Path
    """masks/*.png, overlays/*.jpg, shares.csv."""
    rows: list[dict[str, object]]
    """As `semseg predict --json` has them, with each photo's own name."""
    failed: list[tuple[str, str]]
    """Name and reason."""


def segment_many(
    uploads: Sequence[tuple[str, Path]],
    served: ServedModel,
    archive: Path,
    *,
    max_bytes: int,
    max_pixels: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Batch:
    """Segment photos one after the other into a ZIP.

    Args:
        uploads: name and file of each; ZIPs among them are looked into.
        served: what segments.
        archive: the ZIP to write.
        max_bytes: of one photo, packed or not.
        max_pixels: of one photo.
        progress: told how many photos are done, of how many.

    UserError when there is no photo among them, or more than MOST_PHOTOS.
    """
    with tempfile.TemporaryDirectory(prefix="semseg-many-") as name:
        work = Path(name)
        photos = list(_photos(uploads, work / "in", max_bytes))
        if not photos:
            raise UserError(f"no photos among them ({', '.join(IMAGE_SUFFIXES)}, or a ZIP of those)")
        results = ResultFolder(work / "out", served.engine.labels, overlays=True)
        failed: list[tuple[str, str]] = []
        named = {photo: photo.relative_to(work / "in").as_posix() for photo in photos}
        for done, (photo, result) in enumerate(zip(photos, result_names(photos), strict=True)):
            progress(done, len(photos))
            try:
                data = photo.read_bytes()
                if len(data) > max_bytes:
                    raise UserError(f"more than {max_bytes / 2**20:g} MiB")
                image = decode_image(data, max_pixels)
                results.add(Path(named[photo]), result, image, served.run_blocking(image).prediction)
            except UserError as error:
                failed.append((named[photo], str(error)))
        if results.rows:
            results.write_shares()
        with zipfile.ZipFile(archive, "w") as packed:  # stored: pictures do not get smaller
            for file in sorted((work / "out").rglob("*")):
                if file.is_file():
                    packed.write(file, file.relative_to(work / "out").as_posix())
        return Batch(archive, results.rows, failed)


def _photos(uploads: Sequence[tuple[str, Path]], folder: Path, max_bytes: int) -> Iterator[Path]:
    """Every photo as a file below `folder`, its path there as the visitor knows it."""
    count = total = 0
    for name, path in uploads:
        if zipfile.is_zipfile(path):
            found = _unpack(path, folder / _harmless(name).with_suffix(""), max_bytes)
        elif Path(name).suffix.lower() in IMAGE_SUFFIXES:
            found = iter([_copy(path, _free(folder / _harmless(name)))])
        else:
            continue
        for photo in found:
            count += 1
            if count > MOST_PHOTOS:
                raise UserError(f"more than {MOST_PHOTOS} photos; send fewer, or use `semseg predict`")
            total += photo.stat().st_size
            if total > MOST_LARGEST_PHOTOS * max_bytes:
                raise UserError(f"more than {MOST_LARGEST_PHOTOS * max_bytes / 2**20:g} MiB together; send fewer")
            yield photo


def _unpack(path: Path, folder: Path, max_bytes: int) -> Iterator[Path]:
    """The photos in a ZIP. No entry's word about its size is taken: `max_bytes` + 1 are unpacked at most."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.is_dir() or Path(entry.filename).suffix.lower() not in IMAGE_SUFFIXES:
                    continue
                if any(part.startswith((".", "__MACOSX")) for part in _harmless(entry.filename).parts):
                    continue
                target = _free(folder / _harmless(entry.filename))
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as packed:
                    target.write_bytes(packed.read(max_bytes + 1))
                yield target
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise UserError(f"the ZIP cannot be unpacked ({error})") from None


def _copy(path: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    return target


def _harmless(name: str) -> Path:
    """A path below wherever it is put, from a name that a stranger gave."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return Path(*[part[-100:].replace("\0", "_").replace(":", "_") for part in parts[-4:]] or ["photo"])


def _free(path: Path) -> Path:
    """`path`, or with a number where there is such a file."""
    number = 1
    free = path
    while free.exists():
        free = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return free
