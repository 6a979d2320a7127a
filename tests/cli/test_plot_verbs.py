"""`semseg plot` on models: pictures that open, numbers that agree with the models, mistakes in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.in_process import semseg

from semseg_app.artifact import ModelConfig
from semseg_app.data.layouts import open_dataset
from semseg_app.inference.engines.open import open_engine
from semseg_app.labels import LabelSpace
from semseg_app.models import ModelSpec, build, save_network


def save(folder: Path, tiny_dataset: Path, seed: int, **spec) -> Path:
    """A model of random weights for the scenes."""
    info = open_dataset(tiny_dataset).info
    labels = LabelSpace(classes=info.classes, palette=info.palette)
    torch.manual_seed(seed)
    full = ModelSpec(num_classes=3, decoder_channels=8, **spec)
    save_network(folder, build(full), ModelConfig(name=folder.name, model=full, labels=labels))
    return folder


@pytest.fixture(scope="module")
def models(tiny_dataset, tmp_path_factory) -> list[Path]:
    """Two CNNs and a vision transformer."""
    root = tmp_path_factory.mktemp("models")
    cnn = {"architecture": "segformer", "encoder": "tu-test_efficientnet"}
    vit = {"architecture": "setr", "encoder": "tu-test_vit"}
    return [
        save(root / "first", tiny_dataset, 0, **cnn),
        save(root / "second", tiny_dataset, 1, **cnn),
        save(root / "vit", tiny_dataset, 2, **vit),
    ]


def picture_size(plot: Path) -> tuple[int, int]:
    with Image.open(plot) as picture:
        return picture.size


def numbers_of(plot: Path) -> dict:
    return json.loads(plot.with_suffix(".json").read_text())


def test_features(models, tiny_dataset, tmp_path) -> None:
    plot = tmp_path / "plots" / "features.png"
    options = ["--points", 60, "--perplexity", 8]
    done = semseg("plot", "features", *models[:2], "--data", tiny_dataset, "-o", plot, *options)
    assert (done.returncode, done.stdout) == (0, f"{plot} and {plot.with_suffix('.json')}\n"), done.stderr
    assert min(picture_size(plot)) > 400
    numbers = numbers_of(plot)
    assert [(panel["model"], panel["map"]) for panel in numbers["panels"]] == [
        (str(model), name) for model in models[:2] for name in ("decoder", "deepest stage")
    ]
    assert all(len(panel["points"]) == 60 for panel in numbers["panels"])
    assert len(numbers["point_classes"]) == 60


def test_panels(models, tiny_dataset, tmp_path) -> None:
    plot = tmp_path / "panels.png"
    done = semseg("plot", "panels", *models, "--data", tiny_dataset, "-o", plot, "--photos", 2)
    assert done.returncode == 0, done.stderr
    numbers = numbers_of(plot)
    assert [photo["photo"] for photo in numbers["photos"]] == ["val00", "val04"]
    data = open_dataset(tiny_dataset)
    engines = [open_engine(model) for model in models]
    for photo, sample in zip(numbers["photos"], (data.samples("val")[0], data.samples("val")[4]), strict=True):
        image, label = data.read_pair(sample)
        maps = [engine.classes(image[None])[0] for engine in engines]
        known = label != 255
        right = [(classes == label) & known for classes in maps]
        assert photo["labeled_pixels"] == known.sum()
        assert photo["pixel_accuracy"] == pytest.approx([hit.sum() / known.sum() for hit in right])
        assert photo["gained_pixels"] == (right[2] & ~right[0]).sum()
        assert photo["lost_pixels"] == (right[0] & ~right[2]).sum()
    named = semseg("plot", "panels", *models, "--data", tiny_dataset, "-o", plot, "--photo", "val03")
    assert named.returncode == 0
    assert [photo["photo"] for photo in numbers_of(plot)["photos"]] == ["val03"]


def test_attention(models, tiny_dataset, tmp_path) -> None:
    plot, photo = tmp_path / "attention.png", tiny_dataset / "images" / "val" / "val01.png"
    done = semseg("plot", "attention", models[2], "--photo", photo, "--at", "33,17", "-o", plot, "--shuffle", 16)
    assert done.returncode == 0, done.stderr
    plain, moved = numbers_of(plot)["columns"]
    assert (plain["shuffled"], moved["shuffled"]) == (False, True)
    assert plain["cell"] == moved["cell"] == [1, 2]
    for column in (plain, moved):
        weights = np.array(column["weights"])
        assert weights.shape == (3, 4)
        assert weights.sum() == pytest.approx(1, abs=1e-4)
    assert plain["weights"] != moved["weights"]
    assert min(picture_size(plot)) > 200


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("features MODEL --data DATA -o a.jpg", "a.jpg: plots are written as PNG or PDF; end the name in .png or .pdf"),
        ("features MODEL --data DATA -o a.png --points 60", "perplexity 40 needs more than 120 points"),
        ("features GRAPH --data DATA -o a.png", "an exported graph gives class maps alone"),
        ("features DATA --data DATA -o a.png", "not a model folder"),
        ("panels MODEL --data DATA -o a.png", "panels compares models: name two or more"),
        ("panels MODEL MODEL --data DATA -o a.png --photo x", "--photo x: val has no such photo"),
        ("attention MODEL --photo PHOTO --at 1 -o a.png", "--at 1: two whole numbers"),
        ("attention MODEL --photo PHOTO --at 99,1 -o a.png", "has no self-attention over all patches"),
        ("attention VIT --photo PHOTO --at 99,1 -o a.png", "the photo is 64x48; take 0 to 63,0 to 47"),
        ("pseudo-labels MODEL -o a.png", "not a run folder (it has no recipe.yaml)"),
        ("calibration nowhere -o a.png", "nowhere: not a run folder"),
        ("foo", "no such command 'foo'; see `semseg plot --help`"),
    ],
)
def test_a_mistake_is_one_line(arguments, line, models, tiny_dataset, make_graph, tmp_path, monkeypatch) -> None:
    words = {
        "MODEL": models[0],
        "VIT": models[2],
        "DATA": tiny_dataset,
        "GRAPH": make_graph() if "GRAPH" in arguments else "",
        "PHOTO": tiny_dataset / "images" / "val" / "val01.png",
    }
    monkeypatch.chdir(tmp_path)
    done = semseg("plot", *(words.get(word, word) for word in arguments.split()))
    assert done.returncode == 2
    said = [each for each in done.stderr.splitlines() if not each.startswith(str(tiny_dataset))]
    assert len(said) == 1
    assert line in said[0]
    assert not list(tmp_path.glob("a.*"))
