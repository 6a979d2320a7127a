"""A dataset folder -> a dataset of the Hub: Parquet files with an image and a mask column, and a card.

data/<split>-00000-of-00002.parquet   columns image, label (null for unlabeled images), stem
dataset.yaml, splits/*.txt            as in the folder, so that `semseg data pull` gives the same folder again
README.md                             what it is, its classes and its license
"""

import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from semseg_app.artifact.licenses import as_license
from semseg_app.data.dataset import SegmentationData
from semseg_app.data.listing import Sample
from semseg_app.errors import UserError
from semseg_app.hub.bundle import Files
from semseg_app.hub.markdown import cell, table
from semseg_app.hub.push import Pushed, publish
from semseg_app.labels import hex_color

SHARD = 400_000_000
"""Bytes of photos and masks per file."""
SPLIT_NAMES = {"val": "validation"}
"""Ours -> the Hub's, where they differ."""


COLUMNS = {"image": {"_type": "Image"}, "label": {"_type": "Image"}, "stem": {"dtype": "string", "_type": "Value"}}
"""As the `datasets` library describes them in the metadata of a Parquet file; importing it takes seconds."""


def require_datasets() -> None:
    """UserError where the library is missing."""
    if importlib.util.find_spec("datasets") is None:
        raise UserError("datasets of the Hub need the extra `hub`: pip install 'semseg-app[hub]'")


def push_dataset(
    data: SegmentationData,
    repo: str,
    license: str | None = None,
    public: bool = False,
    token: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pushed:
    """Publish a dataset as user/dataset: private unless `public`, one commit, downloaded again and compared.

    Args:
        data: what to publish.
        repo: user/dataset.
        license: None = what dataset.yaml says.
        public: make it public.
        token: as huggingface_hub takes it.
        progress: called with (photos done, photos in all).
    """
    require_datasets()
    chosen = license or data.info.license
    if not chosen:
        raise UserError(f"{data.root}: no license given; add --license, or license: to dataset.yaml")
    parts = {name: files.samples() for name, files in data.folders.items()}
    info = data.info.model_copy(update={"license": chosen, "source": repo})
    with tempfile.TemporaryDirectory(prefix="semseg-dataset-") as place:
        files: Files = {}
        total, done = sum(map(len, parts.values())), 0
        for name, samples in parts.items():
            hub_name = SPLIT_NAMES.get(name, name)
            shards: list[Path] = []
            for rows in _shards(samples):
                path = Path(place, f"{hub_name}-{len(shards)}.parquet")
                _write(rows, path)
                shards.append(path)
                done += len(rows)
                if progress:
                    progress(done, total)
            for number, path in enumerate(shards):
                files[f"data/{hub_name}-{number:05d}-of-{len(shards):05d}.parquet"] = path
        described = info.model_dump(mode="json", exclude_none=True)
        files["dataset.yaml"] = yaml.safe_dump(described, sort_keys=False, default_flow_style=None).encode()
        files |= {f"splits/{name}.txt": data.list_path(name) for name in data.list_names()}
        files["README.md"] = card(data, repo, chosen, parts).encode()
        return publish(repo, files, "dataset", public, f"Publish {data.info.name}", token)


def card(data: SegmentationData, repo: str, license: str, parts: dict[str, list[Sample]]) -> str:
    """README.md of the dataset."""
    from huggingface_hub import DatasetCardData

    terms = as_license(license, None)
    count = sum(map(len, parts.values()))
    sizes = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    optional: dict[str, Any] = {}
    if terms.name:
        optional = {
            "license_name": terms.name,
            "license_link": data.info.source or f"https://huggingface.co/datasets/{repo}",
        }
    front = DatasetCardData(
        license=terms.id,
        pretty_name=data.info.name,
        task_categories=["image-segmentation"],
        task_ids=["semantic-segmentation"],
        size_categories=[next((name for limit, name in sizes if count < limit), "n>1M")],
        configs=[
            {
                "config_name": "default",
                "data_files": [
                    {"split": SPLIT_NAMES.get(name, name), "path": f"data/{SPLIT_NAMES.get(name, name)}-*"}
                    for name, samples in parts.items()
                    if samples
                ],
            }
        ],
        **optional,
    )
    rows = [
        (cell(SPLIT_NAMES.get(name, name)), str(len(samples)), str(sum(sample.label is not None for sample in samples)))
        for name, samples in parts.items()
    ]
    classes = [
        (str(index), cell(name), hex_color(color))
        for index, (name, color) in enumerate(zip(data.info.classes, data.info.palette, strict=True))
    ]
    source = f"\n\nSource: {cell(data.info.source)}." if data.info.source else ""
    meaning = (
        "A mask holds a class index a pixel"
        if data.info.label_map is None and data.info.color_map is None
        else "The map in dataset.yaml says which value of a mask is which class"
    )
    return (
        f"---\n{front.to_yaml()}\n---\n\n# {cell(data.info.name)}\n\nPhotos with masks of {len(classes)} classes. "
        f"License: **{cell(license)}**.{source}\n\n{table(('split', 'photos', 'with masks'), rows)}\n\n"
        f"{meaning}; {data.info.ignore_index} is ignored.\n\n{table(('index', 'class', 'color'), classes)}\n\n"
        f"As a dataset folder:\n\n```sh\nsemseg data pull {repo} photos-and-masks\nsemseg check photos-and-masks\n```\n"
    )


def _shards(samples: list[Sample]) -> Iterator[list[dict[str, Any]]]:
    """Rows with the files' own bytes, in groups of about SHARD bytes."""
    rows, size = [], 0
    for sample in samples:
        row: dict[str, Any] = {"image": _file(sample.image), "label": None, "stem": sample.stem}
        size += len(row["image"]["bytes"])
        if sample.label is not None:
            row["label"] = _file(sample.label)
            size += len(row["label"]["bytes"])
        rows.append(row)
        if size > SHARD:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _file(path: Path) -> dict[str, Any]:
    return {"bytes": path.read_bytes(), "path": path.name}


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    picture = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    schema = pyarrow.schema(
        {"image": picture, "label": picture, "stem": pyarrow.string()},
        {"huggingface": json.dumps({"info": {"features": COLUMNS}})},
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)
