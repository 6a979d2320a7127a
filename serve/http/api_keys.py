"""API keys, of which the server knows the hashes alone."""

import hashlib
import hmac
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from semseg_app.errors import UserError
from semseg_app.serve.scheduling.admission import RateLimit

ENVIRONMENT = "SEMSEG_API_KEYS"
SHORTEST = 16
"""Characters of a key. SHA-256 is quick: only keys that cannot be guessed are safe behind it."""
_LINE = re.compile(r"([0-9a-fA-F]{64})\s+(\S{1,64})")


class Keys:
    """Named API keys, of which only the hashes are known, and the rate limit of each.

    Args:
        hashes: name -> SHA-256 of the key.
        per_minute: requests per minute of each key, which may come all at once; None = no limit.
        clock: seconds.
    """

    def __init__(
        self,
        hashes: Mapping[str, bytes],
        per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._hashes = dict(hashes)
        self._rate = None if per_minute is None else RateLimit(per_minute, clock)

    @classmethod
    def read(cls, path: Path, per_minute: int | None = None) -> Self:
        """From a file with a line `SHA-256 NAME` for each key; # begins a comment. UserError for any other file.

        On Windows, Notepad begins files with a mark, and Get-FileHash writes capitals.
        """
        hashes: dict[str, bytes] = {}
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}); give a file with one line `SHA-256 NAME` per key"
            ) from None
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            match = _LINE.fullmatch(text)
            if match is None:
                raise UserError(
                    f"{path}, line {number}: not a key's SHA-256 and its name; make one with "
                    "`printf %s KEY | sha256sum`, and write the name for the dash"
                )
            if match[2] in hashes:
                raise UserError(f"{path}, line {number}: a second key named {match[2]!r}; give each its own name")
            hashes[match[2]] = bytes.fromhex(match[1])
        if not hashes:
            raise UserError(f"{path}: holds no key; add a line `SHA-256 NAME`")
        return cls(hashes, per_minute)

    @classmethod
    def from_environment(cls, text: str, per_minute: int | None = None) -> Self:
        """From keys in plain text, separated by spaces or commas; they are called key-1, key-2, ..."""
        keys = re.split(r"[\s,]+", text.strip(" \t\n,"))
        for number, key in enumerate(keys, 1):
            if len(key) < SHORTEST:
                raise UserError(f"{ENVIRONMENT}: key {number} is shorter than {SHORTEST} characters; make a longer one")
        return cls({f"key-{number}": _hash(key) for number, key in enumerate(keys, 1)}, per_minute)

    def name_of(self, key: str) -> str | None:
        """The name of a key; None = unknown. Takes as long for a wrong key as for a right one."""
        digest = _hash(key)
        owner = None
        for name, known in self._hashes.items():
            if hmac.compare_digest(known, digest):
                owner = name
        return owner

    def take(self, name: str) -> int:
        """Count one request of that key: 0 if it is allowed, else the seconds to wait."""
        return 0 if self._rate is None else self._rate.take(name)


def read_keys(path: Path | None, per_minute: int | None) -> Keys | None:
    """The keys of a file, else of SEMSEG_API_KEYS; None = the server is open. UserError for what cannot be."""
    if path is not None:
        return Keys.read(path, per_minute)
    if text := os.environ.get(ENVIRONMENT, "").strip():
        return Keys.from_environment(text, per_minute)
    if per_minute is not None:
        raise UserError(f"--rate-limit is for each API key; give --api-keys or {ENVIRONMENT} too")
    return None


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
