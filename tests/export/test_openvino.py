"""OpenVINO and ONNX Runtime on the same exported files: odd sizes and batches, fp32 and int8."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import pytest

from semseg_app.errors import UserError
from semseg_app.export.int8 import Calibration, export_int8
from semseg_app.export.verification_set import generated_photos
from semseg_app.inference.engines import openvino as engine_module
from semseg_app.inference.engines.base import GRAPHS, Engine
from semseg_app.inference.engines.open import open_engine

PHOTOS = np.stack([photo[100:227, 200:331] for photo in generated_photos(3)])  # 127x131


@pytest.fixture(scope="module")
def folder(exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(exported("segformer"), tmp_path_factory.mktemp("openvino") / "model")
    export_int8(folder, folder / GRAPHS["fp32"], Calibration(list(PHOTOS), "generated"), lambda candidate: True)
    return folder


def worst(first: Engine, second: Engine) -> tuple[float, int]:
    """Over sizes and batches: the least share of pixels with the same class, the largest difference in confidence."""
    agreements, differences = [], []
    for batch, height, width in ((1, 127, 131), (3, 127, 131), (2, 61, 97), (1, 33, 128), (3, 64, 64)):
        images = PHOTOS[:batch, :height, :width]
        one, other = first.infer(images), second.infer(images)
        assert len(np.unique(one.classes)) >= 3
        agreements.append(float((one.classes == other.classes).mean()))
        differences.append(int(np.abs(one.confidence.astype(int) - other.confidence).max()))
    return min(agreements), max(differences)


def test_fp32_masks_are_equal(folder: Path) -> None:
    theirs, ours = (open_engine(folder, kind, "cpu", 1) for kind in ("onnxruntime", "openvino"))
    assert (ours.kind, ours.precision) == ("openvino", "fp32")
    agreement, difference = worst(theirs, ours)
    assert agreement >= 0.9999
    assert difference <= 1


def test_int8_runs_in_integers_and_stays_near(folder: Path, record_property: Callable[[str, object], None]) -> None:
    """Both round to the same 256 levels, but not at the same places: most of what differs are ties of this network."""
    theirs, ours = (open_engine(folder, kind, "cpu", 1, precision="int8") for kind in ("onnxruntime", "openvino"))
    assert ours.precision == "int8"
    agreement, difference = worst(theirs, ours)
    print(f"int8: {agreement:.4%} of the pixels agree at worst, confidence off by {difference}")
    record_property("int8 agreement", agreement)
    assert agreement >= 0.9
    exact = open_engine(folder, "onnxruntime", "cpu", 1)
    images = PHOTOS[:, :96, :128]
    sure = exact.infer(images).confidence >= 0.5 * 255
    assert sure.mean() > 0.5
    assert (theirs.infer(images).classes == ours.infer(images).classes)[sure].mean() >= 0.99
    # As near to the trained network as ONNX Runtime's int8 is.
    assert worst(exact, ours)[0] >= worst(exact, theirs)[0] - 0.03


def test_a_precision_that_nobody_asked_for_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    monkeypatch.setattr(engine_module, "_options", lambda threads: {"INFERENCE_PRECISION_HINT": "bf16"})
    with pytest.raises(UserError, match="is fp32, but OpenVINO runs bf16"):
        open_engine(folder, "openvino")
