"""Disk space for what clients send, and folders that are deleted even when the server that made them was killed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from semseg_app.errors import UserError

FREE_BYTES = 64 * 2**20
"""What is left free on the disk, for the server itself and its neighbors."""
_LOCK = ".lock"


class StorageFull(UserError):
    """There is no room on the server's disk. The HTTP API answers 507."""

    def __init__(self) -> None:
        super().__init__("the server's disk is full; try again later, or ask its owner to make room")


def check_free(folder: Path, size: int) -> None:
    """StorageFull when `size` more bytes would leave less than FREE_BYTES on the disk of `folder`."""
    if shutil.disk_usage(folder).free < size + FREE_BYTES:
        raise StorageFull


class OwnedFolder:
    """A temporary folder of this process. Made anew, it first deletes those of processes that have died.

    The owner holds a lock on a file in the folder; the system releases it however the process ends.

    Args:
        prefix: of the folder's name; folders of the same prefix are looked through.
    """

    def __init__(self, prefix: str):
        for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            _delete_if_abandoned(folder)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        unlocked = self.path / f"{_LOCK}.part"
        self._lock = os.open(unlocked, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unlocked.rename(self.path / _LOCK)  # no other server ever finds it without its lock

    def delete(self) -> None:
        """Delete the folder and everything in it."""
        os.close(self._lock)
        shutil.rmtree(self.path, ignore_errors=True)


def _delete_if_abandoned(folder: Path) -> None:
    """Other users' folders, and those without a lock, stay."""
    with contextlib.suppress(OSError):
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return  # its owner lives
        finally:
            os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
