"""Self-training: the losses by hand, and a run that reads the pseudo labels of a teacher."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.crops import batch, network, seen_by
from support.small_recipe import small_recipe
from torch.nn import functional

from semseg_app.artifact import ModelConfig
from semseg_app.data.layouts import open_dataset
from semseg_app.data.pseudo_label_folder import read_manifest
from semseg_app.errors import UserError
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.pseudo_label_writer import write_pseudo_labels
from semseg_app.labels import LabelSpace
from semseg_app.models import save_network
from semseg_app.training.data.streams import Batch, ImageDataset
from semseg_app.training.loop import train
from semseg_app.training.methods.self_training import SelfTraining, SelfTrainingConfig
from semseg_app.training.recipe import Recipe


def test_both_kinds_of_images_count_half_each(tiny_dataset):
    data = open_dataset(tiny_dataset)
    net, crops = network(), batch()
    method = SelfTraining(
        SelfTrainingConfig(pseudo_labels=Path("unread")),
        net,
        ImageDataset(data, data.samples("train"), with_labels=True),
    )
    labels = torch.randint(0, 3, (4, 32, 48)).masked_fill(crops.unlabeled.pad | (torch.rand(4, 32, 48) < 0.3), 255)
    taught = Batch(crops.labeled, crops.unlabeled._replace(strong=[], cut=[], labels=labels))
    passes = seen_by(net)
    losses = method(taught, 0)
    assert [len(images) for images in passes] == [2 + 4]
    with torch.no_grad():
        first = functional.cross_entropy(net.full_logits(crops.labeled.images), crops.labeled.labels, ignore_index=255)
        second = functional.cross_entropy(net.full_logits(crops.unlabeled.weak), labels, ignore_index=255)
    torch.testing.assert_close(losses, {"supervised": first / 2, "pseudo_supervised": second / 2})

    ignored = taught.unlabeled._replace(labels=torch.full_like(labels, 255))
    losses = method(Batch(crops.labeled, ignored), 0)
    assert losses["pseudo_supervised"] == 0
    torch.stack(list(losses.values())).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in net.parameters())


@pytest.fixture
def folder(tiny_dataset, tmp_path) -> Path:
    """Pseudo labels of the unlabeled list."""
    net = network()
    info = open_dataset(tiny_dataset).info
    labels = LabelSpace(classes=info.classes, palette=info.palette)
    save_network(tmp_path / "teacher", net, ModelConfig(name="teacher", model=net.spec, labels=labels))
    engine = open_engine(tmp_path / "teacher", "torch")
    write_pseudo_labels(tmp_path / "teacher", engine, open_dataset(tiny_dataset), "few-unlabeled", tmp_path / "masks")
    return tmp_path / "masks"


def recipe(root: Path, output: Path, folder: Path, **data) -> Recipe:
    """Two steps of whole photos, as they are."""
    return small_recipe(
        root,
        output,
        data={"root": root, "labeled": "few-labeled", "unlabeled": "few-unlabeled"} | data,
        view={"crop": [48, 64], "scale": [1, 1], "flip": 0},
        method={"name": "self-training", "pseudo_labels": folder},
        schedule={"steps": 2},
        batch_size=4,
    )


def test_a_run_reads_the_masks_beside_their_photos(tiny_dataset, tmp_path, folder, monkeypatch):
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    forward = SelfTraining.forward

    def look(self: SelfTraining, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        seen.extend(zip(batch.unlabeled.weak.mul(255).round().byte(), batch.unlabeled.labels, strict=True))
        return forward(self, batch, step)

    monkeypatch.setattr(SelfTraining, "forward", look)
    report = train(recipe(tiny_dataset, tmp_path / "run", folder), say=lambda line: None)
    pairs = {}
    for mask in folder.glob("*.png"):
        photo = np.asarray(Image.open(tiny_dataset / "images" / "train" / mask.name))
        pairs[photo.tobytes()] = np.asarray(Image.open(mask))
    assert len(pairs) == len(seen) == 8
    for photo, label in seen:
        assert (label.numpy() == pairs[photo.permute(1, 2, 0).numpy().tobytes()]).all()

    manifest = read_manifest(folder).model_dump()
    assert report["data"]["pseudo_labels"] == manifest
    assert report["pseudo_labels"] is None
    config = json.loads((tmp_path / "run" / "last" / "config.json").read_text())
    assert config["provenance"]["training"]["data"]["pseudo_labels"]["weights"] == manifest["weights"]


def test_what_cannot_be_learned_from_is_refused(tiny_dataset, tmp_path, folder):
    def refused(match: str, **data) -> None:
        with pytest.raises(UserError, match=match):
            train(recipe(tiny_dataset, tmp_path / "run", folder, **data), say=lambda line: None)

    refused(
        r"masks/train00.png: missing, so .*train00.png has no pseudo label; .*'few-unlabeled': name", unlabeled="train"
    )
    refused("data.unlabeled: self-training needs unlabeled images", unlabeled=None)
    Image.new("L", (10, 20)).save(folder / "train05.png")
    refused(r"masks/train05.png: 10x20 pixels, but its image is 64x48; make them equal")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"disc"', '"dish"'))
    refused("manifest.json: classes ground, box, dish, but .* has ground, box, disc; make pseudo labels with a teacher")
    manifest.unlink()
    refused(r"masks: holds no pseudo labels \(no manifest.json\); make them with `semseg data pseudo-label`")
