"""Folders of pseudo labels: what is written, resumed, refused, and how it is read back."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from semseg_app.artifact import write_manifest
from semseg_app.cli.main import main
from semseg_app.data.layouts import open_dataset
from semseg_app.data.pseudo_label_folder import as_labeled, read_manifest
from semseg_app.errors import UserError
from semseg_app.inference.engines.open import open_engine
from semseg_app.inference.pseudo_label_writer import near_edges, write_pseudo_labels

MakeGraph = Callable[..., Path]
NAMED = {
    "format_version": 1,
    "name": "rgb",
    "labels": {"classes": ["red", "green", "blue"], "palette": [[200, 0, 0], [0, 200, 0], [0, 0, 200]]},
    "precision": "fp32",
}
SWAPPED = {"classes": ["green", "red", "blue"], "palette": [[0, 200, 0], [200, 0, 0], [0, 0, 200]]}
SIZES = [(24, 40), (24, 40), (31, 17), (24, 40)]


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    """Four photos of blurred colors without labels, one below a sub-folder; masks elsewhere would hold 1, 2, 3."""
    root = tmp_path / "data"
    info = {"name": "colors", "classes": ["red", "green", "blue"], "label_map": {0: 255, 1: 0, 2: 1, 3: 2}}
    (root / "unlabeled" / "sub").mkdir(parents=True)
    (root / "dataset.yaml").write_text(yaml.safe_dump(info))
    random = np.random.default_rng(0)
    for name, (height, width) in zip(("a", "b", "c", "sub/d"), SIZES, strict=True):
        small = Image.fromarray(random.integers(0, 256, (5, 6, 3), np.uint8))
        small.resize((width, height), Image.Resampling.BILINEAR).save(root / "unlabeled" / f"{name}.png")
    return root


def write(graph: Path, root: Path, folder: Path, threshold: float = 0.5, split: str = "unlabeled", **more: object):
    return write_pseudo_labels(graph, open_engine(graph), open_dataset(root), split, folder, threshold, **more)


def test_masks_and_coverage_against_a_plain_count(
    make_graph: MakeGraph, rgb_logits: Callable[[np.ndarray], np.ndarray], colors: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    manifest = write(make_graph(), colors, out, 0.7)
    seen, kept = np.zeros(3), np.zeros(3)
    edge, edge_kept = 0, 0
    for name in ("a", "b", "c", "sub/d"):
        mask = Image.open(out / f"{name}.png")
        assert mask.mode == "P"
        found = np.asarray(mask)
        logits = rgb_logits(np.asarray(Image.open(colors / "unlabeled" / f"{name}.png")))
        probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        classes, highest = probability.argmax(-1), probability.max(-1)
        decided = abs(highest - 0.7) > 1 / 255  # an engine's confidence has 255 steps
        assert decided.mean() > 0.95
        expected = np.where(highest > 0.7, classes, 255)
        assert (found == expected)[decided].all()
        for row in range(found.shape[0]):
            for column in range(found.shape[1]):
                label = classes[row, column]
                around = classes[max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4]
                seen[label] += 1
                kept[label] += found[row, column] != 255
                edge += (around != label).any()
                edge_kept += (around != label).any() and found[row, column] != 255
    coverage = manifest.coverage
    assert coverage is not None
    assert 0.1 < coverage.overall < 0.9
    assert coverage.overall == pytest.approx(kept.sum() / seen.sum(), abs=1e-6)
    assert coverage.by_class == pytest.approx(dict(zip(manifest.classes, kept / seen, strict=True)), abs=1e-6)
    assert coverage.near_edges == pytest.approx(edge_kept / edge, abs=1e-6)
    assert coverage.inside == pytest.approx((kept.sum() - edge_kept) / (seen.sum() - edge), abs=1e-6)
    assert coverage.near_edges < coverage.inside
    assert read_manifest(out) == manifest
    assert manifest.fingerprint == open_dataset(colors).fingerprint(open_dataset(colors).samples("unlabeled"))


def test_edges_reach_three_pixels_in_a_square() -> None:
    classes = np.zeros((9, 12), np.uint8)
    classes[:, 8:] = 200
    assert near_edges(classes).any(axis=0).tolist() == [False] * 5 + [True] * 6 + [False]
    classes[:] = 0
    classes[4, 4] = 7
    rows, columns = np.mgrid[:9, :12]
    assert (near_edges(classes, 2) == (abs(rows - 4) <= 2) & (abs(columns - 4) <= 2)).all()
    assert not near_edges(np.full((2, 2), 3, np.uint8)).any()


def test_interrupted_and_run_again_is_the_same_folder(make_graph: MakeGraph, colors: Path, tmp_path: Path) -> None:
    graph = make_graph()
    whole = write(graph, colors, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Stopped

    out = tmp_path / "out"
    with pytest.raises(Stopped):
        write(graph, colors, out, on_progress=stop)
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "manifest.json"]
    with pytest.raises(UserError, match="not finished; run the same"):
        read_manifest(out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    (out / ".c.png.x.part").write_bytes(b"what a killed process leaves")
    seen: list[tuple[int, int]] = []
    assert write(graph, colors, out, on_progress=lambda *at: seen.append(at)) == whole
    assert seen == [(3, 4), (4, 4)]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name in ("a", "b", "c", "sub/d"):
        assert (out / f"{name}.png").read_bytes() == (tmp_path / "whole" / f"{name}.png").read_bytes()
    (out / "c.png").write_bytes(b"damaged")
    assert write(graph, colors, out) == whole


def test_what_is_not_ours_is_refused_and_left_alone(make_graph: MakeGraph, colors: Path, tmp_path: Path) -> None:
    graph, out = make_graph(), tmp_path / "out"
    write(graph, colors, out)
    content = (out / "manifest.json").read_bytes()
    other = make_graph(tmp_path / "other.onnx", metadata={**NAMED, "name": "another"})
    with pytest.raises(UserError, match=r"out: holds the pseudo labels of another teacher \(rgb, weights \w{12}; this"):
        write(other, colors, out)
    with pytest.raises(UserError, match=r"was made with threshold 0.5, not 0.9; choose another folder, or delete this"):
        write(graph, colors, out, 0.9)
    (colors / "splits").mkdir()
    (colors / "splits" / "two.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"was made with split unlabeled, not two"):
        write(graph, colors, out, split="two")
    assert (out / "manifest.json").read_bytes() == content

    with pytest.raises(UserError, match=r"data: holds other files and no manifest.json; choose a new or empty folder"):
        write(graph, colors, colors)
    with pytest.raises(UserError, match=r"dataset.yaml: is a file"):
        write(graph, colors, colors / "dataset.yaml")
    with pytest.raises(UserError, match=r"threshold 1.0: a probability, from 0 to below 1"):
        write(graph, colors, tmp_path / "new", 1.0)
    swapped = make_graph(tmp_path / "swapped.onnx", metadata={**NAMED, "labels": SWAPPED})
    with pytest.raises(UserError, match="order their classes differently: class 0 is 'green' in the model"):
        write(swapped, colors, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_read_back_as_class_indices_whatever_the_dataset_maps(
    make_graph: MakeGraph, colors: Path, tmp_path: Path
) -> None:
    """In this dataset's own masks a 0 would be ignored and a 3 would be blue; in pseudo labels 0 is red."""
    out = tmp_path / "out"
    write(make_graph(), colors, out)
    data = open_dataset(colors)
    viewed, samples = as_labeled(out, data, data.samples("unlabeled"), "unlabeled")
    assert [sample.label for sample in samples] == [out / f"{name}.png" for name in ("a", "b", "c", "sub/d")]
    for sample in samples:
        label = viewed.read_label(sample)
        assert sample.label is not None
        assert (label == np.asarray(Image.open(sample.label))).all()
        assert set(np.unique(label)) <= {0, 1, 2, 255}
    assert data.samples("unlabeled")[0].label is None

    photo = data.samples("unlabeled")[0].image
    original = photo.read_bytes()
    Image.new("RGB", (40, 24)).save(photo)
    with pytest.raises(UserError, match=r"out: unlabeled of .*data has changed since these pseudo labels were made"):
        as_labeled(out, data, data.samples("unlabeled"), "unlabeled")
    photo.write_bytes(original)
    (out / "b.png").unlink()
    with pytest.raises(UserError, match=r"b.png: missing, so .*unlabeled/b.png has no pseudo label; .* name that list"):
        as_labeled(out, data, data.samples("unlabeled"), "unlabeled")
    as_labeled(out, data, data.samples("unlabeled")[:1], "first")
    data.info.classes[2] = "purple"
    with pytest.raises(UserError, match=r"manifest.json: classes red, green, blue, but .*data has red, green, purple"):
        as_labeled(out, data, data.samples("unlabeled"), "unlabeled")
    with pytest.raises(UserError, match=r"holds no pseudo labels \(no manifest.json\); make them with"):
        as_labeled(tmp_path / "nothing", data, [], "unlabeled")


def test_a_photo_whose_name_is_taken_is_named(make_graph: MakeGraph, colors: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(colors / "unlabeled" / "a.jpg")
    with pytest.raises(UserError, match=r"a.(jpg|png): another photo of its folder has the same name; rename one"):
        write(make_graph(), colors, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def semseg(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["semseg", "data", "pseudo-label", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def test_the_verb(
    network_folder: Path,
    colors: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = (network_folder, "--data", colors, "--list", "unlabeled", "--out", out, "--threshold", 0.4)
    assert semseg(monkeypatch, *arguments, "--engine", "torch", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"folder": str(out), **read_manifest(out).model_dump()}
    source = f"{colors}: dataset folder, 3 classes (red, green, blue); splits and lists: unlabeled"
    assert said.err == f"{source}\n"
    assert read_manifest(out).teacher == "tiny"

    assert semseg(monkeypatch, *arguments) == 0
    said = capsys.readouterr()
    overall = read_manifest(out).coverage.overall
    assert said.out.splitlines()[-1].split() == ["all", "pixels", f"{100 * overall:.1f}"]
    assert said.err.splitlines() == [source, f"4 masks in {out} (tiny, torch, cpu)"]

    weights = network_folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert semseg(monkeypatch, *arguments) == 2
    assert f"{weights}: damaged or replaced since it was saved" in capsys.readouterr().err
    write_manifest(network_folder, {"exports": {}})  # as if another training had saved them
    assert semseg(monkeypatch, *arguments) == 2
    first, error = capsys.readouterr().err.splitlines()
    assert first == source
    assert error.startswith(f"semseg: {out}: holds the pseudo labels of another teacher")
