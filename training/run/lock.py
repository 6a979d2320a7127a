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
    """Hold the run folder. UserError, with the owner's process and host, while another training holds it.

    The kernel releases the lock when its owner ends, however it ends, so nothing has to be cleaned up by hand.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: {_owner(path)} is training here; wait for it, stop it, or choose another output="
            ) from None
        os.truncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        os.close(handle)


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"
