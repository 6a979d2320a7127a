"""Folders in buckets, by address: `s3://bucket/photos`, `gs://...`, `file:///...`, as pyarrow opens them."""

import shutil
from pathlib import Path
from urllib.parse import quote

import pyarrow
import pyarrow.fs

from semseg_app.data.listing import IMAGE_SUFFIXES, PHOTO_SUFFIXES
from semseg_app.errors import UserError
from semseg_app.inference.results import RESULT_FOLDERS

FAILURES = (OSError, ValueError, pyarrow.ArrowException)
"""What pyarrow raises for addresses, credentials and networks."""


def is_address(text: str) -> bool:
    """Whether it is in a bucket, not on a disk."""
    return "://" in text


def join(address: str, below: str) -> str:
    """The address of a path below another one, whose query (`?endpoint_override=...`) it keeps."""
    head, mark, query = address.partition("?")
    return f"{head.rstrip('/')}/{quote(below)}{mark}{query}"


def find_images(address: str, leave_out: str) -> list[str]:
    """The address of an image, or of all images below a folder, sorted. UserError for none.

    Left out are the results of an earlier run in the folder `leave_out`.
    """
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(address)
        if filesystem.get_file_info(path).is_file:
            return [address]
        infos = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    except FAILURES as error:
        raise _user_error(address, "read", error) from None
    below = sorted(info.path[len(path) :].lstrip("/") for info in infos if info.is_file)
    found = [join(address, name) for name in below if name.lower().endswith(PHOTO_SUFFIXES)]
    results = tuple(join(leave_out, f"{name}/").partition("?")[0] for name in RESULT_FOLDERS)
    found = [image for image in found if not image.startswith(results)]
    if not found:
        raise UserError(f"{address}: no images in it or below it ({', '.join(IMAGE_SUFFIXES)})")
    return found


def fetch(address: str, file: Path) -> None:
    """Copy a file here. UserError when it cannot be read."""
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(address)
        with filesystem.open_input_stream(path) as source, file.open("wb") as target:
            shutil.copyfileobj(source, target)
    except FAILURES as error:
        raise _user_error(address, "read", error) from None


def put(file: Path, address: str) -> None:
    """Copy a file there; on an object store it is there whole or not at all. UserError when it cannot be written."""
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(address)
        if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as source, filesystem.open_output_stream(path) as target:
            shutil.copyfileobj(source, target)
    except FAILURES as error:
        raise _user_error(address, "written", error) from None


def _user_error(address: str, what: str, error: Exception) -> UserError:
    return UserError(f"{address}: cannot be {what} ({' '.join(str(error).split())}); check address and credentials")
