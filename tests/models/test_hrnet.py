"""HRNet's branches and head."""

import pytest
import torch
from support import tiny_encoders  # noqa: F401, adds hrnet_test to timm

from semseg_app.models import ModelSpec, build
from semseg_app.models.hrnet import concatenate_branches


def test_the_last_stages_are_the_parallel_branches_themselves():
    torch.manual_seed(0)
    network = build(ModelSpec(architecture="hrnet", encoder="tu-hrnet_test", num_classes=4)).eval()
    branches = []
    network.encoder.model.stage4.register_forward_hook(lambda module, inputs, outputs: branches.extend(outputs))
    with torch.inference_mode():
        features = network.features(torch.rand(2, 3, 61, 97))  # padded to 64 x 128
    assert [tuple(one.shape) for one in branches] == [(2, 8, 16, 32), (2, 16, 8, 16), (2, 32, 4, 8), (2, 64, 2, 4)]
    for stage, branch in zip(features.stages[-4:], branches, strict=True):
        assert torch.equal(stage, branch)
    assert features.decoder.shape == (2, 8 + 16 + 32 + 64, 16, 32)
    assert not [name for name, _ in network.encoder.named_parameters() if "incre" in name or "final_layer" in name]


def test_branches_are_fused_bilinearly_where_asked():
    spec = ModelSpec(architecture="hrnet", encoder="tu-hrnet_test", num_classes=4)
    torch.manual_seed(0)
    nearest = build(spec).eval()
    bilinear = build(spec.model_copy(update={"fuse": "bilinear"})).eval()
    bilinear.load_state_dict(nearest.state_dict())  # the same tensors
    resized = []
    for module in bilinear.encoder.modules():
        if isinstance(module, torch.nn.Upsample):
            module.register_forward_hook(lambda module, inputs, output: resized.append((inputs[0], output)))
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert not torch.allclose(bilinear(images), nearest(images), atol=1e-3)
    assert resized
    for before, after in resized:
        expected = torch.nn.functional.interpolate(before, size=after.shape[2:], mode="bilinear", align_corners=False)
        torch.testing.assert_close(after, expected)


def test_branches_are_laid_over_one_another():
    """Constant maps, and a ramp: its values at the centers of fine cells, away from the border, lie on the ramp."""
    ramp = (2 * torch.arange(4.0) + 1).expand(1, 1, 2, 4)
    maps = [
        torch.zeros(1, 3, 9, 9),
        torch.full((1, 2, 4, 8), 1.0),
        ramp,
        torch.ones(1, 1, 1, 2),
        torch.ones(1, 2, 1, 1),
    ]
    joined = concatenate_branches(maps)
    assert joined.shape == (1, 2 + 1 + 1 + 2, 4, 8)
    torch.testing.assert_close(joined[0, 2, 0, 1:-1], torch.arange(1.0, 7.0) + 0.5)
    assert (joined[:, [0, 1, 3, 4, 5]] == 1).all()


@pytest.mark.parametrize(
    ("spec", "published"),
    [
        ({"architecture": "hrnet", "encoder": "tu-hrnet_w48"}, 65.8),
        ({"architecture": "ocr", "encoder": "tu-hrnet_w48"}, 70.3),
        ({"architecture": "pidnet", "encoder": "pidnet_s"}, 7.6),
    ],
    ids=lambda value: value["architecture"] if isinstance(value, dict) else "",
)
def test_as_many_parameters_as_published(spec, published):
    """In millions, with Cityscapes' 19 classes, without what only training needs."""
    with torch.device("meta"):
        network = build(ModelSpec(**spec, num_classes=19), training_heads=False)
    millions = sum(one.numel() for one in network.parameters()) / 1e6
    assert millions == pytest.approx(published, abs=0.15)
