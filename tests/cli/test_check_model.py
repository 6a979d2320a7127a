"""`semseg check --model`: a graph that tells classes by color looks at masks, two of which are wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from semseg_app.cli.main import app

COLORS = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200)], np.float32)
"""What the graph calls red, green and blue."""


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """14 photos; the mask of p4 is moved by 6 pixels, that of p9 has green and blue swapped."""
    root = tmp_path / "colors"
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    info = {"name": "colors", "classes": ["red", "green", "blue"], "palette": [[200, 0, 0], [0, 200, 0], [0, 0, 200]]}
    (root / "dataset.yaml").write_text(yaml.safe_dump(info))
    for index in range(14):
        random = np.random.default_rng(index)
        label = np.zeros((60, 80), np.uint8)
        for class_index in (1, 2):
            top, left = random.integers(0, 34), random.integers(0, 50)
            label[top : top + random.integers(16, 26), left : left + random.integers(18, 30)] = class_index
        photo = (COLORS[label] + random.normal(0, 10, (60, 80, 3))).clip(0, 255).astype(np.uint8)
        if index == 4:
            label = np.concatenate([np.full((60, 6), 255, np.uint8), label[:, :-6]], axis=1)
        if index == 9:
            label = np.array([0, 2, 1], np.uint8)[label]
        Image.fromarray(photo).save(root / "images" / "train" / f"p{index}.png")
        Image.fromarray(label).save(root / "labels" / "train" / f"p{index}.png")
    return root


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the verb in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_wrong_masks_are_ranked_named_and_shown(
    masks: Path, make_graph: Callable[..., Path], check: Callable[..., Result], tmp_path: Path
) -> None:
    graph = make_graph()
    result = check(masks, "--model", graph, "--json", "--worst", 3)
    assert result.exit_code == 0, result.output  # notes are no findings
    report = json.loads(result.stdout)
    assert [mask["file"] for mask in report["masks"]][:2] == ["labels/train/p9.png", "labels/train/p4.png"]
    assert len(report["masks"]) == 14
    said = {note["kind"]: (note["file"], note["message"]) for note in report["notes"]}
    assert said["mask-classes-swapped"] == (
        "labels/train/p9.png",
        "green and blue look swapped: the model sees each where the mask says the other",
    )
    file, message = said["mask-shifted"]
    assert file == "labels/train/p4.png"
    assert message.startswith("moved 6 px to the left it would agree with the model in 100% of the pixels, now in ")

    page = (tmp_path / "colors-masks.html").read_text()
    assert page.count("<article>") == 3
    assert page.count("data:image/jpeg;base64,") == 9
    assert page.index("p9.png") < page.index("p4.png")
    assert "moved 6 px to the left" in page
    # Without --model nothing looks at masks with a model.
    assert "masks" not in json.loads(check(masks, "--json").stdout)


def test_the_ranking_for_people_and_any_number_of_threads(
    masks: Path, make_graph: Callable[..., Path], check: Callable[..., Result], tmp_path: Path
) -> None:
    graph = make_graph()
    one = check(masks, "--model", graph, "--threads", 1)
    three = check(masks, "--model", graph, "--threads", 3, "--sheet", "page.html", "--split", "train")
    assert "masks that agree least with the model (10 of 14)" in one.stdout
    ranking = one.stdout.partition("masks that agree least")[2]
    assert ranking == three.stdout.partition("masks that agree least")[2]
    assert ranking.index("p9.png") < ranking.index("p4.png")
    assert (tmp_path / "page.html").read_text() == (tmp_path / "colors-masks.html").read_text()


def test_mistakes(masks: Path, make_graph: Callable[..., Path], check: Callable[..., Result]) -> None:
    assert "are for --model" in str(check(masks, "--split", "train").exception)
    info = yaml.safe_load((masks / "dataset.yaml").read_text()) | {"classes": ["red", "green", "sea"]}
    (masks / "dataset.yaml").write_text(yaml.safe_dump(info))
    refused = check(masks, "--model", make_graph())
    assert "only the model knows blue; only the data knows sea" in str(refused.exception)
    partners = masks.parent / "partners.yaml"
    partners.write_text("blue: sea\n")
    mapped = check(masks, "--model", make_graph(), "--teacher-classes", partners, "--json")
    assert [mask["file"] for mask in json.loads(mapped.stdout)["masks"]][:2] == [
        "labels/train/p9.png",
        "labels/train/p4.png",
    ]
