"""A folder that transformers saved: how it is told from a model folder, and what it says of itself.

Its config.json has a `model_type`. Reading it needs neither torch nor transformers.
"""

import hashlib
import json
import re
from pathlib import Path

from semseg_app.artifact import CONFIG, WEIGHTS
from semseg_app.errors import UserError
from semseg_app.files import sha256

SNAPSHOT = re.compile(r"models--(?P<user>.+)--(?P<repo>.+)")
"""How huggingface_hub's cache names the folder of a repository."""


def transformers_type(folder: Path) -> str | None:
    """The `model_type` of a folder that transformers saved, such as "segformer"; None for every other path."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return None
    kind = config.get("model_type") if isinstance(config, dict) else None
    return kind if isinstance(kind, str) else None


def model_name(path: Path) -> str:
    """What to call a model that does not say its name: its id on the Hub, else its folder's or file's name."""
    return repository(path) or (path.absolute().name if path.is_dir() else path.stem)


def repository(path: Path) -> str | None:
    """user/repo where the folder lies in huggingface_hub's cache, else None."""
    for parent in path.absolute().parents:
        if match := SNAPSHOT.fullmatch(parent.name):
            return f"{match['user']}/{match['repo']}"
    return None


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights that transformers saved; of several files, of their hashes in the order of their names.

    UserError where the folder holds none.
    """
    files = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else sorted(folder.glob("model-*.safetensors"))
    files = files or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"{folder}: has no weights (no {WEIGHTS}); copy the whole model")
    if len(files) == 1:
        return sha256(files[0])
    return hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()


def card_license(folder: Path) -> str | None:
    """The license in the model card (README.md) of a folder; None where the card is missing or names none."""
    import yaml

    from semseg_app.yaml_text import load_yaml

    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    header = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    try:
        facts = load_yaml(header[1]) if header else None
    except yaml.YAMLError:
        return None
    if not isinstance(facts, dict):
        return None
    stated = facts.get("license_name") if facts.get("license") == "other" else facts.get("license")
    return stated if isinstance(stated, str) else None
