"""Which images a command line means, and what their results are called."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from semseg_app.data.listing import IMAGE_SUFFIXES, PHOTO_SUFFIXES, RAW_SUFFIXES, list_files
from semseg_app.errors import UserError
from semseg_app.inference.results import RESULT_FOLDERS, SHARES

SECOND_FORMS = (*RAW_SUFFIXES, ".heic", ".heif")
"""What cameras and telephones write beside a JPEG of the same photo."""
LONGEST_NAME = 255
"""Bytes that most file systems allow a name."""
LONGEST_ENDING = ".png.aux.xml"
"""Of the files that belong to a photo's results."""


def find_images(inputs: Iterable[str], leave_out: Path) -> list[Path]:
    """The images that files, folders (with all below them) and glob patterns name; each once, in the order given.

    A file named outright is taken whatever its suffix; in folders and patterns only photos count, those of formats that
    may turn out to be unreadable too. Left out are the results of earlier runs, in the folder `leave_out` and in those
    that have a table, and a raw or HEIC file beside the same photo in a format that is read. UserError for an input
    that names no image.
    """
    found: dict[Path, Path] = {}
    results = leave_out.resolve()

    @cache
    def of_results(folder: Path) -> bool:
        return any(
            part.name in RESULT_FOLDERS and (part.parent == results or (part.parent / SHARES).is_file())
            for part in (folder, *folder.parents)
        )

    for text in inputs:
        path = Path(text)
        if path.is_file():
            named = [path]
        else:
            candidates = (
                [image for _, image in list_files(path, PHOTO_SUFFIXES, nested=True)] if path.is_dir() else _glob(text)
            )
            readable = {image.with_suffix("") for image in candidates if image.suffix.lower() in IMAGE_SUFFIXES}
            named = [
                image
                for image in candidates
                if not of_results(image.resolve().parent)
                and not (image.suffix.lower() in SECOND_FORMS and image.with_suffix("") in readable)
            ]
            if candidates and not named:
                raise UserError(f"{text}: no images in it but the results of an earlier run; name a folder of photos")
            if not named:
                what = (
                    f"no images in it or below it ({', '.join(IMAGE_SUFFIXES)})" if path.is_dir() else "no such image"
                )
                raise UserError(f"{text}: {what}")
        for image in named:
            found.setdefault(absolute(image), image)
    return list(found.values())


def absolute(image: Path) -> Path:
    """The path from the root, links as they are: DVC, git-annex and the Hub's cache keep photos under their hashes."""
    return Path(os.path.abspath(image))  # noqa: PTH100 - resolve() follows links


def result_names(images: list[Path]) -> list[str]:
    """A name for the results of each image, no two alike, on disks too that take A for a (Windows, macOS).

    It is the stem; where that is taken twice, the path below the folder that holds them all; where that is taken too
    (photo.jpg beside photo.png), the path with its suffix. UserError where it is too long for the endings of results.
    """
    whole = [absolute(image) for image in images]
    root = Path(os.path.commonpath([image.parent for image in whole])) if whole else Path()
    choices = [
        (image.stem, below.with_suffix("").as_posix(), below.as_posix())
        for image, below in zip(whole, [image.relative_to(root) for image in whole], strict=True)
    ]
    level = [0] * len(images)
    while True:
        names = [choice[depth] for choice, depth in zip(choices, level, strict=True)]
        plain = [unicodedata.normalize("NFC", name).casefold() for name in names]
        count = Counter(plain)
        longer = [min(depth + (count[name] > 1), 2) for name, depth in zip(plain, level, strict=True)]
        if longer == level:  # A.jpg beside a.jpg stay alike but for their case: this disk tells them apart
            break
        level = longer
    for image, name in zip(images, names, strict=True):
        if len(os.fsencode(Path(name).name + LONGEST_ENDING)) > LONGEST_NAME:
            most = LONGEST_NAME - len(LONGEST_ENDING)
            raise UserError(f"{image}: the results of a photo need a name of at most {most} bytes; rename it")
    return names


def _glob(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.name == "**":  # before Python 3.13, these are folders alone
        path /= "*"
    root = Path(path.anchor or ".")
    matches = root.glob(path.relative_to(path.anchor).as_posix())
    return sorted(
        match
        for match in matches
        if match.is_file() and match.suffix.lower() in PHOTO_SUFFIXES and not match.name.startswith(".")
    )
