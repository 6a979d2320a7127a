"""Many photos at once: files, a folder or a ZIP in; a ZIP with what `semseg predict` writes out."""

import errno
import logging
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from semseg_app.data.listing import IMAGE_SUFFIXES, PHOTO_SUFFIXES, RAW_SUFFIXES, why_unread
from semseg_app.errors import UserError
from semseg_app.inference.inputs import result_names
from semseg_app.inference.results import ResultFolder
from semseg_app.serve.demo.words import in_plain_words
from semseg_app.serve.scheduling.admission import DeadlineExceeded, Overloaded, Requester
from semseg_app.serve.scheduling.segmentation import Segmentation
from semseg_app.serve.scheduling.served_model import ServedModel

log = logging.getLogger("semseg.serve")

MOST_PHOTOS = 200
MOST_NAME_BYTES = 200
MOST_WAITS = 5
MOST_LARGEST_PHOTOS = 16
"""Limit on the bytes of all photos together, in photos of the largest size."""


class Batch(NamedTuple):
    """The results of many photos."""

    archive: Path
    """masks/*.png, overlays/*.jpg, shares.csv."""
    rows: list[dict[str, object]]
    """The rows of `semseg predict --json`, with each photo's own name."""
    failed: list[tuple[str, str]]
    """Name of the photo, and why it failed."""


def segment_many(
    uploads: Sequence[tuple[str, Path]],
    served: ServedModel,
    archive: Path,
    *,
    max_bytes: int,
    who: Requester,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Batch:
    """Segment photos one after the other into a ZIP.

    Args:
        uploads: name and file of each upload; ZIPs are unpacked.
        served: the model that segments.
        archive: the ZIP to write.
        max_bytes: largest photo, encoded, also after unpacking.
        who: the visitor.
        progress: called with the number of photos done, and of all.

    UserError when the uploads hold no photo, more than MOST_PHOTOS, or too many bytes together.
    """
    with tempfile.TemporaryDirectory(prefix="semseg-many-") as name:
        work = Path(name)
        photos = list(_photos(uploads, work / "in", max_bytes))
        if not photos:
            raise UserError(f"the uploads hold no photos ({', '.join(IMAGE_SUFFIXES)}, or a ZIP of those)")
        results = ResultFolder(work / "out", served.engine.labels, overlays=True)
        failed: list[tuple[str, str]] = []
        names = {photo: photo.relative_to(work / "in").as_posix() for photo in photos}
        for done, (photo, result) in enumerate(zip(photos, result_names(photos), strict=True)):
            progress(done, len(photos))
            try:
                if photo.suffix.lower() in RAW_SUFFIXES:
                    raise UserError(why_unread(photo.suffix))
                data = photo.read_bytes()
                if len(data) > max_bytes:
                    raise UserError(f"this photo has more than {max_bytes / 2**20:g} megabytes")
                answer = _segment_patiently(served, data, who)
                results.add(Path(names[photo]), result, answer.image, answer.classes, answer.confidence)
            except (UserError, Overloaded, DeadlineExceeded) as error:
                failed.append((names[photo], in_plain_words(error)))
        if results.rows:
            results.write_shares()
        with zipfile.ZipFile(archive, "w") as packed:  # stored: pictures do not get smaller
            for file in sorted((work / "out").rglob("*")):
                if file.is_file():
                    packed.write(file, file.relative_to(work / "out").as_posix())
        return Batch(archive, results.rows, failed)


def _segment_patiently(served: ServedModel, data: bytes, who: Requester) -> Segmentation:
    """Segment one photo; while the server is overloaded, wait as long as it says, MOST_WAITS times."""
    for _ in range(MOST_WAITS):
        try:
            return served.segment_blocking(data, who)
        except Overloaded as error:
            time.sleep(error.retry_after_s)
    return served.segment_blocking(data, who)


def _photos(uploads: Sequence[tuple[str, Path]], folder: Path, max_bytes: int) -> Iterator[Path]:
    """Every photo, of whatever format, as a file below `folder`, under the path that the visitor gave it."""
    count = total = 0
    for name, path in uploads:
        if zipfile.is_zipfile(path):
            photos = _unpack(path, folder / _harmless(name).with_suffix(""), max_bytes)
        elif Path(name).suffix.lower() in PHOTO_SUFFIXES:
            photos = iter([_copy(path, _free(folder / _harmless(name)))])
        else:
            continue
        for photo in photos:
            count += 1
            if count > MOST_PHOTOS:
                raise UserError(f"these are more than {MOST_PHOTOS} photos; send fewer at once")
            total += photo.stat().st_size
            if total > MOST_LARGEST_PHOTOS * max_bytes:
                limit = MOST_LARGEST_PHOTOS * max_bytes / 2**20
                raise UserError(f"these photos have more than {limit:g} megabytes in all; send fewer at once")
            yield photo


def _unpack(path: Path, folder: Path, max_bytes: int) -> Iterator[Path]:
    """The photos in a ZIP. At most `max_bytes` + 1 bytes of each are unpacked, whatever size the ZIP declares."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.is_dir() or Path(entry.filename).suffix.lower() not in PHOTO_SUFFIXES:
                    continue
                if any(part.startswith((".", "__MACOSX")) for part in _harmless(entry.filename).parts):
                    continue
                target = _free(folder / _harmless(entry.filename))
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as packed:
                    target.write_bytes(packed.read(max_bytes + 1))
                yield target
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # a full disk, say; EINVAL is a place before the file's beginning, which a damaged ZIP points to
        log.info("a ZIP cannot be unpacked: %s", error)
        raise UserError("the ZIP file is damaged or has a password; pack it again without one") from None


def _copy(path: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    return target


def _harmless(name: str) -> Path:
    """A relative path without `..` from a name that a stranger gave: at most four parts, each within the 255 bytes that
    file systems give a name, with room for numbers and other suffixes.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    short = [part.encode("utf-8", "replace")[-MOST_NAME_BYTES:].decode("utf-8", "ignore") for part in parts[-4:]]
    return Path(*[part.replace("\0", "_").replace(":", "_") for part in short] or ["photo"])


def _free(path: Path) -> Path:
    """`path`, with a number added if such a file exists."""
    number = 1
    free = path
    while free.exists():
        free = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return free
