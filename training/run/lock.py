"""One training at a time in a run folder."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semseg_app.errors import UserError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the run folder where it is missing, and hold it for one training.

    UserError, with the owner's process and host, while another training holds it, and where the folder cannot be
    written to. The kernel releases the lock when its owner ends, however it ends, so there is nothing to clean up.
    """
    handle = _open_locked(folder)
    try:
        yield
    finally:
        os.close(handle)


def _open_locked(folder: Path) -> int:
    path = folder / "run.lock"
    handle = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        return handle
    except OSError as error:
        if handle is not None:
            os.close(handle)
        if isinstance(error, BlockingIOError):
            message = f"{_owner(path)} is training here; wait for it, stop it, or choose another output="
        else:  # a read-only or full disk, a file in the folder's place, a file system without locks
            message = f"the run folder cannot be written to ({error.strerror}); choose another output="
        raise UserError(f"{folder}: {message}") from None


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"
