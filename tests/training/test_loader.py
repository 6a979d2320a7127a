"""The unlabeled pool of a run: one list, or photos of several roots."""

import shutil
from pathlib import Path

import pytest
from support.patch_network import patch_network

from semseg_app.data.image_label_table import write_image_labels
from semseg_app.data.layouts import open_dataset
from semseg_app.data.splits import class_presence
from semseg_app.errors import UserError
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.loader import unlabeled_images
from semseg_app.training.methods.fixmatch import FixMatch, FixMatchConfig
from semseg_app.training.recipe import Recipe
from semseg_app.training.run.before import fingerprints


def recipe_on(root: Path, more: list[dict[str, str]], **method: str) -> Recipe:
    data = {"root": str(root), "labeled": "few-labeled", "unlabeled": "few-unlabeled", "more_unlabeled": more}
    return Recipe.model_validate({"name": "pool", "data": data, "method": {"name": "fixmatch"} | method})


def test_photos_of_other_roots_join_the_pool_without_their_masks(tiny_dataset: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    data = open_dataset(tiny_dataset)
    first = data.samples("train")[0]
    shutil.copy(first.image, photos / first.image.name)
    more = [{"root": str(photos), "layout": "photos"}, {"root": str(tiny_dataset), "split": "val"}]
    recipe = recipe_on(tiny_dataset, more)
    labeled = ImageDataset(data, data.samples("few-labeled"), with_labels=True)
    method = FixMatch(FixMatchConfig(), patch_network(), labeled)
    pool = unlabeled_images(recipe, data, method, cache=False)
    assert pool is not None
    own, val = data.samples("few-unlabeled"), data.samples("val")
    assert len(pool) == len(own) + 1 + len(val)
    joined = pool.samples[len(own) :]
    assert [sample.image for sample in joined] == [photos / first.image.name, *(sample.image for sample in val)]
    assert all(sample.label is None for sample in joined)
    assert (pool[len(own)][0].numpy().transpose(1, 2, 0) == data.read_image(first)).all()
    facts = fingerprints(recipe, data, labeled, pool, None)
    assert facts["unlabeled"]["images"] == len(pool)
    assert [entry["name"] for entry in facts["more_unlabeled"]] == ["photos", "tiny"]
    assert facts["unlabeled"]["hash"] != data.fingerprint(own)


def test_image_labels_are_for_all_roots_or_for_none(tiny_dataset: Path, tmp_path: Path) -> None:
    data = open_dataset(tiny_dataset)
    labeled = ImageDataset(data, data.samples("few-labeled"), with_labels=True)
    method = FixMatch(FixMatchConfig(), patch_network(), labeled)
    more = {"root": str(tiny_dataset), "split": "val"}
    table, other = str(tmp_path / "own.csv"), str(tmp_path / "other.csv")
    keys = {"name": "pseudoseg", "background": "ground", "image_labels": table}
    for path, split in ((table, "few-unlabeled"), (other, "val")):
        write_image_labels(data, data.samples(split), Path(path))
    with pytest.raises(UserError, match=r"image labels are for all unlabeled photos or for none; name image_labels"):
        unlabeled_images(recipe_on(tiny_dataset, [more], **keys), data, method, cache=False)
    pool = unlabeled_images(
        recipe_on(tiny_dataset, [more | {"image_labels": other}], **keys), data, method, cache=False
    )
    assert pool is not None
    assert pool.image_classes is not None
    presence = class_presence(data, [*data.samples("few-unlabeled"), *data.samples("val")])
    assert (pool.image_classes.numpy() == presence).all()
