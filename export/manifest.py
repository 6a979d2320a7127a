"""The manifest's word on exported files: written after each verification, read before a file is used. No torch here."""

from pathlib import Path
from typing import Any

from semseg_app import artifact
from semseg_app.files import sha256


def record(folder: Path, exported_file: Path, entry: dict[str, Any]) -> None:
    """Put what `verify` returned into the model folder's manifest.json; entries of other files stay."""
    manifest = {"format_version": 1, "exports": {}, **artifact.read_manifest(folder)}
    manifest["exports"][exported_file.relative_to(folder).as_posix()] = entry
    artifact.write_manifest(folder, manifest)


def has_passed(folder: Path, exported_file: Path) -> bool:
    """Whether the manifest says that this very file, made of these very weights, passed."""
    entry = artifact.read_manifest(folder).get("exports", {}).get(exported_file.relative_to(folder).as_posix(), {})
    return (
        entry.get("verdict") == "passed"
        and exported_file.is_file()
        and entry["sha256"] == sha256(exported_file)
        and entry["source_sha256"] == sha256(folder / artifact.WEIGHTS)
    )
