"""A dataset of the Hub with an image and a mask column -> a dataset folder, row by row: nothing is held in memory.

What comes from the Hub is not trusted: files are named by us, photos and masks are decoded before they are kept, and no
code of a repository runs (the `datasets` library has no scripts any more).
"""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml
from PIL import Image
from pydantic import ValidationError

from semseg_app.data.dataset import DECODING_ERRORS, DatasetInfo, SegmentationData, read_yaml
from semseg_app.data.mask_pixels import INDEX_MODES, check_mask, numbers
from semseg_app.errors import UserError, explain
from semseg_app.files import atomic_folder
from semseg_app.hub.client import api, explained, patiently
from semseg_app.hub.contents import MIB
from semseg_app.hub.dataset_push import SPLIT_NAMES, require_datasets
from semseg_app.hub.download import HubId
from semseg_app.photos import open_photo, to_rgb

if TYPE_CHECKING:
    import datasets

STEM = re.compile(r"[A-Za-z0-9][\w-]{0,99}")
MASK_NAMES = ("label", "labels", "mask", "masks", "annotation", "segmentation_mask", "semantic_mask", "segmentation")
LIST = re.compile(r"splits/[A-Za-z0-9][\w-]{0,99}\.txt")
OUR_NAMES = {theirs: ours for ours, theirs in SPLIT_NAMES.items()}


class Wish(NamedTuple):
    """Which part of a dataset, and what its masks mean, where it does not say itself."""

    config: str | None = None
    splits: tuple[str, ...] = ()
    """As the Hub names them; empty = all."""
    image: str | None = None
    mask: str | None = None
    """Columns; None = found by their types and names."""
    info: Path | None = None
    """A dataset.yaml; None = the repository's own, or its id2label.json, or `classes`."""
    classes: tuple[str, ...] = ()
    ignore_index: int = 255
    limit: int | None = None
    """Most rows of a split."""


def pull_dataset(
    repo: str, target: Path, wish: Wish, progress: Callable[[str, int], None] | None = None
) -> DatasetInfo:
    """Write a dataset of the Hub as a dataset folder, whole or not at all.

    Args:
        repo: user/dataset, or user/dataset@revision.
        target: the folder; must not exist.
        wish: which part.
        progress: called with (split, rows so far).

    UserError for columns or classes that cannot be found out, and for a row that is broken or does not fit.
    """
    require_datasets()
    named = HubId.parse(repo)
    if named is None:
        raise UserError(f"{repo}: not an id of a dataset; write user/dataset, or user/dataset@revision")
    if target.exists():
        raise UserError(f"{target}: exists already; choose another folder")
    with explained(named.repo, named.revision, "dataset"):
        commit = patiently(lambda: api().dataset_info(named.repo, revision=named.revision)).sha
        assert commit is not None
        names = patiently(lambda: api().list_repo_files(named.repo, repo_type="dataset", revision=commit))
        info = _info(named.repo, commit, names, wish)
        streams = dict(_streams(named.repo, commit, wish))
        with atomic_folder(target) as part:
            data = SegmentationData(part, info, {})
            for split, stream in streams.items():
                name = OUR_NAMES.get(split, split)
                image, mask = _columns(stream, wish, f"{named.repo}, {split}")
                rows = _rows(stream, image, mask, wish.limit)
                _write_split(data, name, rows, f"{named.repo}, {split}", progress)
            described = info.model_dump(mode="json", exclude_none=True)
            (part / "dataset.yaml").write_text(yaml.safe_dump(described, sort_keys=False, default_flow_style=None))
            if wish.limit is None and not wish.splits:
                _lists(named.repo, commit, names, part)
    return info


def _info(repo: str, commit: str, names: list[str], wish: Wish) -> DatasetInfo:
    """Classes and what the numbers of a mask mean."""
    told: dict[str, Any] = {}
    source = f"{repo}/dataset.yaml"
    if wish.info is not None:
        source, told = str(wish.info), read_yaml(wish.info)
    elif wish.classes:
        source, told = "--classes", {"classes": list(wish.classes), "ignore_index": wish.ignore_index}
    elif "dataset.yaml" in names:
        told = read_yaml(_fetch(repo, commit, "dataset.yaml"))
    elif "id2label.json" in names:
        source, told = f"{repo}/id2label.json", {"ignore_index": wish.ignore_index}
        try:
            labels = {
                int(key): str(name)
                for key, name in json.loads(_fetch(repo, commit, "id2label.json").read_bytes()).items()
            }
        except (ValueError, AttributeError):
            raise UserError(f"{source}: not a table of numbers and names; give --classes or --info") from None
        used = sorted(key for key in labels if key != wish.ignore_index)
        told["classes"] = [labels[key] for key in used]
        if used != list(range(len(used))):
            told["label_map"] = {key: place for place, key in enumerate(used)} | {wish.ignore_index: wish.ignore_index}
    else:
        raise UserError(
            f"{repo}: says nowhere what its classes are; give --classes road,sky,... or --info dataset.yaml"
        )
    try:
        return DatasetInfo.model_validate({"name": repo.partition("/")[2], **told, "source": repo})
    except ValidationError as error:
        raise explain(error, source) from None


def _fetch(repo: str, commit: str, name: str) -> Path:
    """A small text file of the repository."""
    (found,) = api().get_paths_info(repo, [name], repo_type="dataset", revision=commit)
    if getattr(found, "size", 0) > MIB * 8:
        raise UserError(f"{repo}: {name} is larger than 8 MiB; give --classes or --info instead")
    return Path(api().hf_hub_download(repo, name, repo_type="dataset", revision=commit))


def _streams(repo: str, commit: str, wish: Wish) -> "Iterator[tuple[str, datasets.IterableDataset]]":
    from datasets import get_dataset_split_names, load_dataset

    try:
        there = get_dataset_split_names(repo, wish.config, revision=commit)
        for split in wish.splits or there:
            if split not in there:
                raise UserError(f"{repo}: unknown split {split!r}; choose from {', '.join(there)}")
            yield split, load_dataset(repo, wish.config, split=split, revision=commit, streaming=True)
    except (FileNotFoundError, ValueError) as error:  # no data files, a configuration to choose, a script
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{repo}: not a dataset that the library `datasets` reads ({reason})") from error


def _columns(stream: "datasets.IterableDataset", wish: Wish, where: str) -> tuple[str, str | None]:
    """The columns of photo and mask. A dataset without masks has photos alone."""
    from datasets import Image as ImageColumn

    described = stream.features or {}
    pictures = [name for name, kind in described.items() if isinstance(kind, ImageColumn)]
    for option, name in (("--image", wish.image), ("--mask", wish.mask)):
        if name is not None and name not in pictures:
            raise UserError(
                f"{where}: {option} {name}: not a column of images; choose from {', '.join(pictures) or 'none'}"
            )
    mask = wish.mask or next((name for name in MASK_NAMES if name in pictures and name != wish.image), None)
    others = [name for name in pictures if name != mask]
    image = wish.image or ("image" if "image" in others else others[0] if len(others) == 1 else None)
    if image is None or (mask is None and len(pictures) > 1):
        raise UserError(
            f"{where}: which column is the photo, which the mask? Give --image and --mask; columns of images: "
            f"{', '.join(pictures) or 'none'}"
        )
    return image, mask


class Row(NamedTuple):
    """What is kept of one row."""

    name: str | None
    photo: bytes
    mask: bytes | None


def _rows(stream: "datasets.IterableDataset", image: str, mask: str | None, limit: int | None) -> Iterator[Row]:
    from datasets import Image as ImageColumn

    for column in filter(None, (image, mask)):
        stream = stream.cast_column(column, ImageColumn(decode=False))
    for row in stream.take(limit) if limit else stream:
        stem = row.get("stem") or Path(row[image].get("path") or "").stem
        yield Row(str(stem), _bytes(row[image]), _bytes(row[mask]) if mask and row[mask] else None)


def _bytes(value: dict[str, Any]) -> bytes:
    """The file in a cell; where it only names one, that one is read from the repository."""
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    from datasets.utils.file_utils import xopen

    with xopen(value["path"], "rb") as file:
        return bytes(file.read())


def _write_split(
    data: SegmentationData, name: str, rows: Iterable[Row], where: str, progress: Callable[[str, int], None] | None
) -> None:
    """images/<name> and labels/<name>; photos without a mask of a split that has some, and of "unlabeled", apart."""
    images, labels, unlabeled = data.root / "images" / name, data.root / "labels" / name, data.root / "unlabeled"
    used: set[str] = set()
    for number, row in enumerate(rows):
        place = f"{where}, row {number}"
        free = row.name is not None and STEM.fullmatch(row.name) and row.name not in used
        stem = row.name if free and row.name else f"{name}_{number:06d}"
        used.add(stem)
        size, photo, suffix = _photo(row.photo, place)
        folder = images if row.mask is not None else unlabeled
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}{suffix}").write_bytes(photo)
        if row.mask is not None:
            labels.mkdir(parents=True, exist_ok=True)
            (labels / f"{stem}.png").write_bytes(_mask(data, row.mask, size, place))
        if progress:
            progress(name, number + 1)


def _photo(content: bytes, place: str) -> tuple[tuple[int, int], bytes, str]:
    """(width, height) upright, and the file to keep: as it came where that is JPEG or PNG."""
    try:
        with open_photo(io.BytesIO(content)) as image:
            suffix = {"JPEG": ".jpg", "PNG": ".png"}.get(image.format or "")
            upright = to_rgb(image)
    except DECODING_ERRORS as error:
        raise UserError(f"{place}: unreadable photo ({error})") from None
    if suffix is None:
        target = io.BytesIO()
        upright.save(target, "PNG")
        return upright.size, target.getvalue(), ".png"
    return upright.size, content, suffix


def _mask(data: SegmentationData, content: bytes, size: tuple[int, int], place: str) -> bytes:
    """The mask as PNG. UserError where it is not of its photo's size, or holds what dataset.yaml does not name."""
    try:
        with Image.open(io.BytesIO(content)) as mask:
            if mask.size != size:
                raise UserError(f"{place}: the mask is {mask.size[0]}x{mask.size[1]}, its photo {size[0]}x{size[1]}")
            check_mask(mask)
            if data.info.color_map is None and mask.mode not in INDEX_MODES:
                values = np.asarray(mask.convert("RGB"))
                if (values != values[..., :1]).any():
                    raise UserError(f"{place}: the mask is a color picture; give --info with a color_map")
                values = values[..., 0]
            else:
                values = np.asarray(mask.convert("RGB")) if data.info.color_map is not None else numbers(mask)
    except DECODING_ERRORS as error:
        raise UserError(f"{place}: unreadable mask ({error})") from None
    if data.info.color_map is None:
        if ((values < 0) | (values > 255)).any():
            raise UserError(f"{place}: the mask holds {int(values.max())}; masks go from 0 to 255")
        values = values.astype(np.uint8)
        strange = values[data.lookup[values] < 0]
        if strange.size:
            raise UserError(
                f"{place}: the mask holds {int(strange[0])}, which is none of the {data.num_classes} classes nor "
                f"{data.info.ignore_index} (ignored); give --classes, --ignore-index or --info that name it"
            )
    target = io.BytesIO()
    Image.fromarray(values).save(target, "PNG")
    return target.getvalue()


def _lists(repo: str, commit: str, names: list[str], folder: Path) -> None:
    """The lists in splits/ that a folder was pushed with, where the names of its photos are still the same."""
    stems = {path.stem for path in folder.rglob("*") if path.is_file()}
    for name in filter(LIST.fullmatch, names):
        lines = _fetch(repo, commit, name).read_text(encoding="utf-8").splitlines()
        if all(line.strip().rpartition("/")[2] in stems for line in lines if line.strip()):
            (folder / "splits").mkdir(exist_ok=True)
            (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
