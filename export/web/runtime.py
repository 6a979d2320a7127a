"""onnxruntime-web, which runs the graph in the browser: one pinned version, out of npm's package and verified.

Nothing is built: the package holds the files that a page needs. It is kept in the cache folder as it was published, and
hashed each time it is used.
"""

import base64
import hashlib
import os
import sys
import tarfile
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from semseg_app.errors import UserError
from semseg_app.files import atomic_file

VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Hash of the package, as the registry publishes it."""
PACKAGE = f"onnxruntime-web-{VERSION}.tgz"
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Files of its dist/: the interface, the loader and the runtime itself, for the CPU, with SIMD."""
REGISTRY = "https://registry.npmjs.org"
BY_HAND = f"run `npm pack onnxruntime-web@{VERSION}` and give the folder of its file with --runtime"
SECONDS = 60
"""Without a byte from the registry, before it counts as silent."""


def runtime_files(folder: Path | None = None) -> dict[str, bytes]:
    """Name -> content of onnxruntime-web's files.

    Args:
        folder: holds the package, as `npm pack` leaves it; nothing is fetched then. None = the cache folder, which is
            filled from the registry (`npm_config_registry`, as npm has it, or npm's own) where the package is missing.

    UserError when there is no package, no network, or the package is not the published one.
    """
    package = (folder or cache_folder()) / PACKAGE
    if not package.is_file():
        if folder is not None:
            raise UserError(f"{package}: missing; {BY_HAND}")
        content = _fetch()
        with atomic_file(package) as part:
            part.write_bytes(content)
    else:
        content = package.read_bytes()
        if not _is_published(content):
            raise UserError(
                f"{package}: not onnxruntime-web {VERSION} as it was published (its sha512 differs); delete it and "
                + (BY_HAND if folder else "run again")
            )
    return _unpack(package)


def cache_folder() -> Path:
    """Where the package is kept between exports."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "semseg_app").expanduser()


def _fetch() -> bytes:
    """The package from the registry, verified before it is written anywhere."""
    registry = os.environ.get("npm_config_registry", REGISTRY).rstrip("/")  # noqa: SIM112, npm's own spelling
    address = f"{registry}/onnxruntime-web/-/{PACKAGE}"
    print(f"fetching {address}", file=sys.stderr)
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            content: bytes = answer.read()
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{address}: cannot be fetched ({reason}); where there is a network, {BY_HAND}") from error
    if not _is_published(content):
        raise UserError(f"{address}: refused: not onnxruntime-web {VERSION} as it was published (its sha512 differs)")
    return content


def _is_published(content: bytes) -> bool:
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode() == INTEGRITY


def _unpack(package: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(package) as archive:
        for name in FILES:
            file = archive.extractfile(f"package/dist/{name}")
            assert file is not None
            found[name] = file.read()
    return found
