"""Teachers of other programs and of other classes: what the student is shown of them, and runs with each kind."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.other_graphs import other_graph
from support.small_recipe import small_recipe
from support.tiny_models import COLORS
from support.tiny_transformers import save_tiny

from semseg_app.artifact import read_config
from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.inference.engines.open import open_engine
from semseg_app.models import ModelSpec, build, load
from semseg_app.training.data.streams import Batch, ImageDataset, LabeledBatch
from semseg_app.training.distill.kd import kd
from semseg_app.training.distill.maps import on_grid
from semseg_app.training.distill.teachers import Teacher
from semseg_app.training.loop import train
from semseg_app.training.methods.distillation import Distillation, DistillationConfig
from semseg_app.training.recipe import Recipe

RGB = {"classes": ["red", "green", "blue"], "mean": [0, 0, 0], "std": [1, 1, 1]}
PARTNERS = {"red": "box", "blue": "disc", "green": "ground"}
IGNORED = "ignore:method.teacher_classes"


def recipe(root: Path, output: Path, **method: Any) -> Recipe:
    return small_recipe(
        root,
        output,
        data={"root": root, "labeled": "few-labeled", "unlabeled": "few-unlabeled"},
        schedule={"steps": 3},
        log_every=1,
        method={"name": "distillation", "use_unlabeled": True} | method,
    )


def losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if "losses" in line]


@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize("name", ["segformer", "mask2former", "eomt"])
def test_a_model_of_transformers_teaches(tiny_dataset: Path, tmp_path: Path, name: str) -> None:
    """Offline; the run says how good it is, the student inherits its lineage, and it is scored as its engine is."""
    teacher = save_tiny(name, tmp_path / name)
    (teacher / "README.md").write_text("---\nlicense: mit\n---\n# A teacher\n")
    report = train(recipe(tiny_dataset, tmp_path / "run", teacher=teacher, teacher_classes={"sky": "ground"}))
    assert all(math.isfinite(line["kd"]) and line["kd"] > 0 for line in losses(tmp_path / "run"))
    lineage = read_config(tmp_path / "run" / "last").provenance["training"]["lineage"]
    (inherited,) = lineage["teachers"]
    assert (inherited["name"], inherited["architecture"], inherited["by"]) == (name, name, "distillation")
    assert [(weights["name"], weights["license"]) for weights in lineage["weights"]] == [(name, "mit")]

    data = open_dataset(tiny_dataset)
    engine = open_engine(teacher, device="cpu", threads=1)
    counts = np.zeros((3, 3))
    for sample in data.samples("val"):
        image, label = data.read_pair(sample)
        shares = engine.probabilities(image[None])[0]
        merged = np.stack([shares[0] + shares[3], shares[1], shares[2]]).argmax(0)
        np.add.at(counts, (label[label != 255], merged[label != 255]), 1)
    hits = np.diag(counts)
    with np.errstate(invalid="ignore"):
        expected = np.nanmean(hits / (counts.sum(0) + counts.sum(1) - hits))
    assert report["teacher"]["miou"] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("gives", ["logits", "classes"])
def test_a_graph_of_another_program_teaches(tiny_dataset: Path, tmp_path: Path, gives: str) -> None:
    """The scenes are drawn in red, blue and gray: a teacher that reads colors is good at boxes and discs."""
    teacher = other_graph(tmp_path / "colors.onnx", gives, description=RGB | {"license": "cc-by-4.0"})
    report = train(recipe(tiny_dataset, tmp_path / "run", teacher=teacher, teacher_classes=PARTNERS))
    data = open_dataset(tiny_dataset)
    pairs = [data.read_pair(sample) for sample in data.samples("val")]
    right = [np.array([1, 0, 2])[(image @ COLORS).argmax(-1)] == label for image, label in pairs]
    labeled = sum((label != 255).sum() for _, label in pairs)
    assert report["teacher"]["pixel_accuracy"] == pytest.approx(sum(map(np.sum, right)) / labeled, abs=5e-3)
    assert all(line["kd"] > 0 for line in losses(tmp_path / "run"))
    lineage = read_config(tmp_path / "run" / "last").provenance["training"]["lineage"]
    assert lineage["weights"][0].items() >= {"name": "colors", "role": "teacher", "license": "cc-by-4.0"}.items()


def test_hard_labels_make_kd_a_cross_entropy(tiny_dataset: Path, tmp_path: Path) -> None:
    path = other_graph(tmp_path / "colors.onnx", "classes", description=RGB)
    teacher = Teacher(path, open_dataset(tiny_dataset), PARTNERS)
    images = torch.rand(2, 3, 16, 24)
    student = torch.randn(2, 3, 4, 6, requires_grad=True)
    taught = on_grid(teacher.maps(images, ["logits"])["logits"], (16, 24), (4, 6), (16, 24), nearest=True)
    pair = teacher.pair_of_logits(student, taught)
    colors = open_engine(path).infer((images * 255).round().byte().permute(0, 2, 3, 1).numpy()).classes
    target = np.array([1, 0, 2])[colors][:, 2::4, 2::4]  # the nearest pixel to the center of a cell of four
    expected = torch.nn.functional.cross_entropy(student, torch.from_numpy(target))
    for temperature in (1.0, 4.0):
        scaled = torch.nn.functional.cross_entropy(student / temperature, torch.from_numpy(target)) * temperature**2
        assert kd(*pair, temperature).item() == pytest.approx(scaled.item(), rel=1e-5)
    assert kd(*pair, 1.0).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_merged_and_missing_partners_by_hand(tiny_dataset: Path, tmp_path: Path, temperature: float) -> None:
    """Teacher: ground, box, disc, sky. Its box and disc mean box; sky has no partner; disc is unknown to it."""
    folder = save_tiny("segformer", tmp_path / "segformer")
    with pytest.warns(UserWarning, match=r"pixels of the teacher's sky are ignored; the teacher does not know disc"):
        teacher = Teacher(folder, open_dataset(tiny_dataset), {"disc": "box"})
    random = torch.Generator().manual_seed(0)
    taught = 2 * torch.randn(2, 4, 5, 7, generator=random)
    student = (2 * torch.randn(2, 3, 5, 7, generator=random)).requires_grad_()
    loss = kd(*teacher.pair_of_logits(student, taught), temperature)
    total, ignored = 0.0, 0
    for image in range(2):
        for row in range(5):
            for column in range(7):
                t = [float(value) for value in taught[image, :, row, column].double()]
                s = [float(value) for value in student.detach()[image, :, row, column].double()]
                ground, box = math.exp(t[0]), math.exp(t[1]) + math.exp(t[2])
                if math.exp(t[3]) > max(ground, box):
                    ignored += 1
                    continue
                ground, box = ground ** (1 / temperature), box ** (1 / temperature)
                p = [ground / (ground + box), box / (ground + box)]
                powers = [math.exp(value / temperature) for value in s[:2]]
                q = [value / sum(powers) for value in powers]
                total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert 5 < ignored < 60
    assert loss.item() == pytest.approx(temperature**2 * total / 70, rel=1e-4)
    loss.backward()
    assert student.grad is not None
    assert (student.grad[:, 2] == 0).all(), "the teacher says nothing of discs"
    without = taught[:, 3] > torch.stack([taught[:, 0], taught[:, 1:3].logsumexp(1)]).amax(0)
    assert student.grad.abs().amax(1)[without].max() < 1e-7
    assert (student.grad.abs().amax(1)[~without] > 0).all()


def network_folder_of(classes: list[str], folder: Path) -> Path:
    from semseg_app.artifact import ModelConfig
    from semseg_app.data.dataset import default_palette
    from semseg_app.labels import LabelSpace
    from semseg_app.models import save_network

    torch.manual_seed(0)
    spec = ModelSpec(encoder="resnet18", num_classes=len(classes), decoder_channels=16)
    labels = LabelSpace(classes=classes, palette=default_palette(len(classes)))
    save_network(folder, build(spec), ModelConfig(name="own", model=spec, labels=labels))
    return folder


def test_our_own_teacher_of_the_same_classes_in_another_order(tiny_dataset: Path, tmp_path: Path) -> None:
    """With partners by name alone, KD of a student that is the teacher with its rows in our order is zero."""
    folder = network_folder_of(["disc", "ground", "box"], tmp_path / "own")
    student = load(folder)
    with torch.no_grad():
        for tensor in (student.classifier.weight, student.classifier.bias):
            tensor.copy_(tensor[[1, 2, 0]].clone())
    data = open_dataset(tiny_dataset)
    pool = ImageDataset(data, data.samples("few-labeled"), with_labels=True)
    config = DistillationConfig(teacher=folder, teacher_classes={}, fitnet={})
    method = Distillation(config, student, pool).eval()
    labels = torch.zeros(2, 48, 64, dtype=torch.int64)
    labeled = LabeledBatch(torch.rand(2, 3, 48, 64), labels, labels.bool(), torch.tensor(float(labels.numel())))
    found = method(Batch(labeled, None), 0)
    assert found["kd"].abs() < 1e-6
    assert "fitnet" in found


def test_what_cannot_be_followed_is_one_line(tiny_dataset: Path, tmp_path: Path) -> None:
    folder = save_tiny("segformer", tmp_path / "segformer")
    hard = other_graph(tmp_path / "hard.onnx", "classes", description=RGB)
    weights = shutil.copy(folder / "model.safetensors", tmp_path)
    for method, said in (
        ({"teacher": folder}, r"knows ground, box, disc, sky, but .* name partners in method.teacher_classes"),
        ({"teacher": folder, "teacher_classes": {"sky": "ground"}, "cwd": {}}, r"method.cwd.features: .* use kd or"),
        ({"teacher": folder, "teacher_classes": {"skye": "ground"}}, r"has no class 'skye'; did you mean sky\?"),
        (
            {"teacher": folder, "teacher_classes": {"sky": "grund"}},
            r"the data has no class 'grund'; did you mean ground",
        ),
        ({"teacher": hard, "teacher_classes": {}}, r"no class of the teacher means a class of the data"),
        ({"teacher": hard, "teacher_classes": PARTNERS, "maskd": {"token_steps": 1}}, r"method.maskd: cannot follow"),
        ({"teacher": weights}, r"model.safetensors: weights alone, without network and classes"),
        ({"teacher": tmp_path / "missing"}, r"no such model folder"),
    ):
        with pytest.raises(UserError, match=said) as refusal:
            train(recipe(tiny_dataset, tmp_path / "run", **method), say=lambda line: None)
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run" / "best").exists()
