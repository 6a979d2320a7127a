"""Datasets of the Hub: a folder there and back, and other people's columns into a folder."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Features, Image, Value
from hub_stand_in import StandIn
from huggingface_hub import DatasetCard
from PIL import Image as Pillow
from support.hub_machines import Machine

from semseg_app.data.dataset import open_folder


def png(values: np.ndarray, kind: str = "PNG") -> bytes:
    target = io.BytesIO()
    Pillow.fromarray(values).save(target, kind)
    return target.getvalue()


def test_there_and_back_is_the_same_folder(hub: StandIn, machine: Callable[..., Machine], tiny_dataset: Path) -> None:
    here = machine()
    (line,) = here.mistakes(("data", "push", tiny_dataset, "ann/tiny"))
    assert "no license given; add --license" in line
    done = here.full("data", "push", tiny_dataset, "ann/tiny", "--license", "cc-by-4.0", "--json")
    assert done.returncode == 0, done.stderr
    repo = hub.repo("ann/tiny", "dataset")
    assert (repo.private, len(repo.titles)) == (True, 2)
    card = DatasetCard(repo.files()["README.md"].decode())
    assert card.data.to_dict() == {
        "license": "cc-by-4.0",
        "pretty_name": "tiny",
        "size_categories": ["n<1K"],
        "task_categories": ["image-segmentation"],
        "task_ids": ["semantic-segmentation"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": "train", "path": "data/train-*"},
                    {"split": "validation", "path": "data/validation-*"},
                ],
            }
        ],
    }
    assert "| validation | 5 | 5 |" in card.text
    schema = pyarrow.parquet.read_schema(io.BytesIO(repo.files()["data/train-00000-of-00001.parquet"]))
    assert Features.from_arrow_schema(schema) == Features({"image": Image(), "label": Image(), "stem": Value("string")})

    done = here.full("data", "pull", "ann/tiny", "back")
    assert done.returncode == 0, done.stderr
    back, before = open_folder(here.place / "back"), open_folder(tiny_dataset)
    assert (back.info.license, back.info.source) == ("cc-by-4.0", "ann/tiny")
    assert back.split_names() == before.split_names() == ["train", "val", "few-labeled", "few-unlabeled"]
    for name in before.split_names():
        theirs, ours = before.samples(name), back.samples(name)
        assert [sample.stem for sample in theirs] == [sample.stem for sample in ours]
        for one, other in zip(theirs, ours, strict=True):
            assert one.image.read_bytes() == other.image.read_bytes()
            np.testing.assert_array_equal(before.read_label(one), back.read_label(other))


@pytest.fixture
def foreign(hub: StandIn) -> Callable[..., None]:
    """foreign(rows, name, **files): somebody's dataset with the columns photo, annotation and depth."""

    def add(rows: list[dict], name: str = "bob/rooms", **files: bytes) -> None:
        columns = Features({"photo": Image(), "annotation": Image(), "depth": Image(), "note": Value("string")})
        target = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=columns.arrow_schema), target)
        content = {"data/train-0.parquet": target.getvalue()}
        hub.add(name, content | {file.replace("__", "."): one for file, one in files.items()}, kind="dataset")

    return add


def row(mask: np.ndarray | None, photo: bytes | None = None, path: str | None = None) -> dict:
    pixels = np.full((8, 12, 3), 70, np.uint8)
    return {
        "photo": {"bytes": photo or png(pixels), "path": path},
        "annotation": None if mask is None else {"bytes": png(mask), "path": None},
        "depth": {"bytes": png(pixels[..., 0]), "path": None},
        "note": "../../etc",
    }


@pytest.mark.slow
def test_other_people_s_columns(hub: StandIn, machine: Callable[..., Machine], foreign: Callable[..., None]) -> None:
    mask = np.zeros((8, 12), np.uint8)
    mask[:, 6:], mask[0] = 7, 255
    webp = png(np.full((8, 12, 3), 9, np.uint8), "WEBP")
    foreign(
        [row(mask, path="../../escaped.png"), row(mask, webp), row(None), row(np.stack([mask] * 3, axis=2))],
        id2label__json=json.dumps({"0": "wall", "7": "floor", "255": "nothing"}).encode(),
    )
    here = machine()
    done = here.full("data", "pull", "bob/rooms", "rooms", "--image", "photo", "--json")
    assert json.loads(done.stdout) == {"folder": "rooms", "classes": ["wall", "floor"], "rows": {"train": 4}}, (
        done.stderr
    )
    rooms = open_folder(here.place / "rooms")
    assert rooms.info.label_map == {0: 0, 7: 1, 255: 255}
    assert [sample.image.name for sample in rooms.samples("train")] == [
        "escaped.png",
        "train_000001.png",
        "train_000003.png",
    ]
    assert [sample.stem for sample in rooms.samples("unlabeled")] == ["train_000002"]
    for sample in rooms.samples("train"):
        np.testing.assert_array_equal(rooms.read_label(sample), np.where(mask == 7, 1, mask))
    assert not list(here.place.parent.glob("escaped*"))


PULL_ALL = """
from pathlib import Path
from semseg_app.hub.dataset_pull import Wish, pull_dataset
from semseg_app.errors import UserError
for number, wish in enumerate(WISHES):
    try:
        pull_dataset(f"bob/rooms{number}", Path(f"rooms{number}"), Wish(**wish))
    except UserError as error:
        print(error)
"""


def test_what_cannot_be_read_is_named(
    hub: StandIn, machine: Callable[..., Machine], foreign: Callable[..., None]
) -> None:
    mask = np.full((8, 12), 3, np.uint8)
    colors = np.zeros((8, 12, 3), np.uint8)
    colors[..., 1] = 9
    ours = {"image": "photo", "classes": ("wall", "floor")}
    cases = [
        ([row(mask)], {}, "says nowhere what its classes are"),
        ([row(mask)], {"classes": ("a",)}, "which column is the photo, which the mask"),
        ([row(mask)], {"classes": ("a",), "mask": "note"}, "--mask note: not a column of images"),
        ([row(mask)], ours | {"splits": ("test",)}, "unknown split 'test'; choose from train"),
        ([row(mask)], ours, "row 0: the mask holds 3, which is none of the 2 classes"),
        ([row(colors)], ours, "row 0: the mask is a color picture"),
        ([row(mask[:4])], ours, "row 0: the mask is 12x4, its photo 12x8"),
        ([row(mask, b"no photo")], ours, "row 0: unreadable photo"),
    ]
    for number, (rows, _, _) in enumerate(cases):
        foreign(rows, f"bob/rooms{number}")
    foreign([row(mask - 2), row(mask, b"never looked at")], f"bob/rooms{len(cases)}")
    here = machine()
    wishes = [wish for _, wish, _ in cases]
    wishes += [ours | {"limit": 1}, {}]
    answers = here.python(PULL_ALL.replace("WISHES", repr(wishes))).splitlines()
    for answer, message in zip(answers, [*(said for _, _, said in cases), "the Hub has no such dataset"], strict=True):
        assert message in answer
    (only,) = here.place.glob("rooms*")
    assert len(open_folder(only).samples("train")) == 1
