"""Models that transformers saved, as engines: every class map is that of transformers' own pipeline, step by step."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_transformers import CLASSES, MODELS, QUERY_MODELS, save_tiny

from semseg_app.errors import UserError
from semseg_app.inference.engines.base import ProbabilityEngine
from semseg_app.inference.engines.hf import TransformersModel
from semseg_app.inference.engines.open import open_engine

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 5, 9, 3), np.uint8).repeat(10, axis=1).repeat(10, axis=2)
"""Two photos of 50x90 with large cells."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("transformers")
    return {name: save_tiny(name, root / name) for name in MODELS}


def refused(path: Path, *arguments: Any, **keywords: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_engine(path, *arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


def pipeline(folder: Path, query: bool) -> list[Any]:
    """What transformers documents for such a folder, one photo after the other, as PIL images."""
    from PIL import Image
    from transformers import (
        AutoImageProcessor,
        AutoModelForSemanticSegmentation,
        AutoModelForUniversalSegmentation,
    )

    processor = AutoImageProcessor.from_pretrained(folder)
    automatic = AutoModelForUniversalSegmentation if query else AutoModelForSemanticSegmentation
    model = automatic.from_pretrained(folder).eval()
    answers = []
    for image in IMAGES:
        inputs = processor(images=Image.fromarray(image), return_tensors="pt")
        offsets = inputs.pop("patch_offsets", None)
        with torch.no_grad():
            outputs = model(**inputs)
        if offsets is not None:
            outputs.patch_offsets = offsets
        answers += processor.post_process_semantic_segmentation(
            outputs, target_sizes=[image.shape[:2]], return_segmentation_scores=True
        )
    return answers


@pytest.mark.parametrize("name", MODELS)
def test_class_maps_are_those_of_its_own_post_processing(folders: dict[str, Path], name: str) -> None:
    query = name in QUERY_MODELS
    engine = open_engine(folders[name], device="cpu", threads=1)
    assert isinstance(engine, ProbabilityEngine)
    assert (engine.kind, engine.name, engine.device, engine.precision) == ("transformers", name, "cpu", "fp32")
    assert engine.labels.classes == CLASSES
    expected = pipeline(folders[name], query)
    scores = torch.stack([answer.segmentation_scores for answer in expected])
    classes = torch.stack([answer.segmentation for answer in expected]).numpy()
    assert len(np.unique(classes)) > 1
    prediction = engine.infer(IMAGES)
    top = scores.topk(2, dim=1).values
    decided = (top[:, 0] - top[:, 1] > 1e-4).numpy()  # batches of two and of one round differently
    assert decided.mean() > 0.95
    np.testing.assert_array_equal(prediction.classes[decided], classes[decided])
    shares = scores / scores.sum(1, keepdim=True) if query else scores.softmax(1)
    np.testing.assert_allclose(engine.probabilities(IMAGES), shares, atol=1e-4)
    assert np.abs(prediction.confidence - 255 * shares.amax(1).numpy()).max() <= 1

    model = TransformersModel(folders[name])
    with torch.no_grad():
        logits = model.logits(torch.from_numpy(IMAGES).permute(0, 3, 1, 2), IMAGES.shape[1:3])
    np.testing.assert_array_equal(logits.argmax(1).numpy()[decided], classes[decided])


def test_size_and_normalization_are_those_of_the_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    """Other numbers in preprocessor_config.json change the answer as applying them by hand does."""
    folder = shutil.copytree(folders["segformer"], tmp_path / "other")
    facts = json.loads((folder / "preprocessor_config.json").read_text())
    mean, std = [0.1, 0.5, 0.9], [0.5, 0.25, 0.125]
    facts |= {"do_resize": False, "image_mean": mean, "image_std": std, "rescale_factor": 1 / 128}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    images = IMAGES[:, :32, :64]
    from transformers import AutoModelForSemanticSegmentation

    pixels = (images / 128 - mean) / std
    with torch.no_grad():
        logits = AutoModelForSemanticSegmentation.from_pretrained(folder)(
            torch.from_numpy(pixels).float().permute(0, 3, 1, 2)
        ).logits
    expected = torch.nn.functional.interpolate(logits, size=(32, 64), mode="bilinear").softmax(1)
    engine = open_engine(folder, device="cpu", threads=1)
    assert isinstance(engine, ProbabilityEngine)
    np.testing.assert_allclose(engine.probabilities(images), expected, atol=1e-4)


def test_classes_of_one_name_are_told_apart(folders: dict[str, Path], tmp_path: Path) -> None:
    """ADE20K has several screens, say; by name alone, tables would hold one of them."""
    folder = shutil.copytree(folders["segformer"], tmp_path / "other")
    facts = json.loads((folder / "config.json").read_text())
    facts["id2label"] |= {"1": "screen", "3": "screen"}
    (folder / "config.json").write_text(json.dumps(facts))
    engine = open_engine(folder, device="cpu", threads=1)
    assert engine.labels.classes == ["ground", "screen (1)", "disc", "screen (3)"]


class Bad:
    """Unpickles into a call of a harmless function, where a loader lets it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.cwd, ())


def test_what_cannot_be_run_is_one_line(
    folders: dict[str, Path], network_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter(range(100))

    def copy(name: str = "segformer") -> Path:
        return shutil.copytree(folders[name], tmp_path / f"copy{next(made)}")

    folder = copy()
    (folder / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json" in refused(folder)

    folder = copy("beit")
    facts = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(facts | {"do_center_crop": True}))
    assert "set do_center_crop to false" in refused(folder)
    default = {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(default))
    assert "set do_center_crop to false" in refused(folder)

    folder = copy("mask2former")
    facts = json.loads((folder / "preprocessor_config.json").read_text())
    padded = facts | {"pad_size": {"height": 256, "width": 256}}
    (folder / "preprocessor_config.json").write_text(json.dumps(padded))
    assert "set pad_size to null" in refused(folder)

    folder = copy()
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refused(folder)

    folder = copy()
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "transformers cannot load it" in refused(folder)

    folder = copy()  # a backbone without a head would run with a random one
    tensors = load_file(folder / "model.safetensors")
    backbone = {name: tensor for name, tensor in tensors.items() if "decode_head" not in name}
    assert len(backbone) < len(tensors)
    save_file(backbone, folder / "model.safetensors", metadata={"format": "pt"})
    assert "take a model that was trained for segmentation, not its backbone" in refused(folder)

    folder = copy()
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts | {"model_type": "bert"}))
    assert "bert is not a segmentation model" in refused(folder)

    folder = copy()
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Bad()}, folder / "pytorch_model.bin")
    assert "transformers cannot load it" in refused(folder)

    assert "leave --engine and --precision out" in refused(folders["dpt"], "onnxruntime")
    assert "leave --engine and --precision out" in refused(folders["dpt"], precision="int8")
    from semseg_app.artifact import read_config

    with pytest.raises(UserError, match=r"a dpt model of transformers; this needs a model folder of ours"):
        read_config(folders["dpt"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'semseg-app[hf]'" in refused(folders["dpt"])


def test_plain_torch_weights_are_taken(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["segformer"], tmp_path / "bin")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    theirs, ours = (open_engine(path, device="cpu").infer(IMAGES).classes for path in (folders["segformer"], folder))
    np.testing.assert_array_equal(theirs, ours)
