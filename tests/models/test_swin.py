"""The walk through a Swin transformer against timm's own."""

import pytest
import timm
import torch
from support import tiny_encoders  # noqa: F401, adds swin_test to timm

from semseg_app.models.swin import SwinEncoder


@pytest.mark.parametrize("window", [7, 12])
@pytest.mark.parametrize("size", [(32, 64), (224, 256), (160, 352)])
def test_maps_are_those_of_timm(window, size):
    torch.manual_seed(0)
    options = {"strict_img_size": False, "always_partition": True, "window_size": window, "depths": (2, 2, 2, 2)}
    reference = timm.create_model("swin_test", features_only=True, **options).eval()
    encoder = SwinEncoder(timm.create_model("swin_test", num_classes=0, **options)).eval()
    weights = {name.replace("layers_", "layers."): tensor for name, tensor in reference.state_dict().items()}
    encoder.model.load_state_dict(weights)
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        first, empty, *maps = encoder(images)
        expected = [one.permute(0, 3, 1, 2) for one in reference(images)]
    assert first is images
    assert empty.shape == (2, 0, size[0] // 2, size[1] // 2)
    assert encoder.out_channels == [3, 0] + [one.shape[1] for one in maps]
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
