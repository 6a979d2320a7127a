"""Encoders that pool to a fixed grid: the exported graph is right at every size, not at the traced one alone."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from semseg_app import artifact, models
from semseg_app.errors import UserError
from semseg_app.export.onnx import export_onnx
from semseg_app.export.traceable import free_pooling
from semseg_app.export.verify import verify
from semseg_app.labels import LabelSpace


class Pools(nn.Module):
    """Adaptive pooling to two grids, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.AdaptiveAvgPool2d(7), nn.AdaptiveAvgPool2d((3, 3)), nn.AdaptiveAvgPool2d(1)])

    def forward(self, maps: Tensor) -> list[Tensor]:
        return [block(maps) for block in self.blocks]


def test_the_exported_pooling_is_torch_s_own_at_every_size(tmp_path: Path) -> None:
    exported, torch_s_own = Pools(), Pools()
    free_pooling(exported)
    assert [isinstance(block, nn.AdaptiveAvgPool2d) for block in exported.blocks] == [False, False, True]
    axes = {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    file = tmp_path / "pools.onnx"
    torch.onnx.export(
        exported.eval(), (torch.zeros(1, 2, 40, 56),), file, dynamo=True, dynamic_shapes={"maps": axes}, verbose=False
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for height, width in ((40, 56), (7, 9), (31, 200), (5, 3)):
        maps = torch.rand(1, 2, height, width)
        found = session.run(None, {session.get_inputs()[0].name: maps.numpy()})
        for answer, expected in zip(found, torch_s_own(maps), strict=True):
            np.testing.assert_allclose(answer, expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "pooling", [nn.AdaptiveMaxPool2d(7), nn.AdaptiveAvgPool2d((3, 5)), nn.AdaptiveAvgPool2d((None, 7))]
)
def test_what_cannot_be_exported_is_said_before_it_is_traced(pooling: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(pooling))
    with pytest.raises(UserError, match=r"1\.0 is Adaptive.*cannot be exported for photos of any size; take another"):
        free_pooling(network)


@pytest.mark.slow
def test_an_encoder_that_pools_inside_passes_the_gate(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = models.ModelSpec(architecture="segformer", encoder="tu-pvt_v2_b2_li", decoder_channels=32, num_classes=3)
    labels = LabelSpace(classes=["a", "b", "c"], palette=[(0, 0, 0), (1, 1, 1), (2, 2, 2)])
    folder = tmp_path / "model"
    models.save_network(folder, models.build(spec), artifact.ModelConfig(name="model", model=spec, labels=labels))
    entry = verify(folder, export_onnx(folder))
    assert entry["verdict"] == "passed", entry["reasons"]
