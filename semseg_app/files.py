"""Writes that happen whole or not at all, and the hash of a file."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semseg_app.errors import UserError

NO_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.ENOENT)
"""What the operating system says where a path leads through a file; see `in_the_way`."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it takes its place, on an error it is removed."""
    with _disk_errors(path, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_prefix(path), suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        with _disk_errors(path, path.parent):
            yield part
            part.chmod(0o666 & ~_umask())
            _sync(part)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that becomes `path` on a clean exit; `path` must not exist yet."""
    with _disk_errors(path, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=_prefix(path), suffix=".part", dir=path.parent))
    try:
        with _disk_errors(path, path):
            yield part
            part.chmod(0o777 & ~_umask())
            for file in part.rglob("*"):
                if file.is_file():
                    _sync(file)
            part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def atomic_symlink(link: Path, target: str) -> None:
    """Point `link` at `target` (relative to its folder) in one step."""
    part = link.with_name(f".{link.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(link)


def remove_folder(path: Path) -> None:
    """Delete a folder in one step: half of it is never seen under its own name."""
    grave = path.with_name(f".{path.name}.removed.part")
    shutil.rmtree(grave, ignore_errors=True)
    path.rename(grave)
    shutil.rmtree(grave, ignore_errors=True)


def require_writable(folder: Path) -> None:
    """UserError where nothing can be written into a folder, which may be missing yet: before long work, not after."""
    with _disk_errors(folder, folder):
        there = next(part for part in (folder, *folder.parents) if part.exists())
        handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=there)  # rights alone do not tell
    os.close(handle)
    Path(name).unlink()


def in_the_way(folder: Path) -> Path | None:
    """What keeps a path from being a folder: itself or one above it that is a file or a link to nothing; else None."""
    for part in (*reversed(folder.parents), folder):
        if (part.exists() or part.is_symlink()) and not part.is_dir():
            return part
    return None


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits. It is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _disk_errors(path: Path, folder: Path) -> Iterator[None]:
    """A UserError for what a disk refuses while `path` is written, which needs `folder` to be a folder."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = _system_error(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path}: the disk is full; nothing was changed. Free some space and run again") from error
        if number == errno.EFBIG:
            raise UserError(f"{path}: larger than the file system allows; choose another folder") from error
        if not isinstance(error, OSError):
            raise
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{path}: a longer name than the file system allows; choose a shorter one") from error
        if error.errno == errno.EISDIR and path.is_dir():
            raise UserError(f"{path}: is a folder; name a file") from error
        if error.errno in NO_FOLDER and (blocker := in_the_way(folder)):
            raise UserError(
                f"{path}: cannot be written, because {blocker} is no folder; choose another path"
            ) from error
        raise


def _prefix(path: Path) -> str:
    """How a temporary name begins that becomes `path`: where `path` has just room, so must have its temporary name."""
    return f".{path.name[:40]}."


def _system_error(error: BaseException | None) -> int | None:
    """The operating system's number of an error, also where torch raised another on top of it, or safetensors, which
    is written in Rust, has it in its message alone."""
    while error is not None:
        if isinstance(error, OSError):
            return error.errno
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            return int(found[1])
        error = error.__context__
    return None


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
