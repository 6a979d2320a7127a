import numpy as np
import pytest
from support.brush_bits import unpacked

from semseg_app.masks.brush import brush_rle


def test_bytes_of_label_studios_own_encoder():
    """What label_studio_sdk.converter.brush.mask2rle (version 2) makes of this mask."""
    mask = np.zeros((3, 5), bool)
    mask[1:, 2:4] = True
    assert brush_rle(mask) == [0, 0, 0, 60, 57, 27, 254, 27, 0, 159, 254, 216, 4, 255, 241, 128, 0]


@pytest.mark.parametrize("long", [False, True], ids=["scenes", "runs beyond 16 bits"])
def test_a_decoder_reads_the_mask_in_all_four_channels(scene, long):
    mask = np.pad(scene == scene[0, 0], ((0, 150), (0, 150)), mode="edge") if long else scene == scene[0, 0]
    rgba = unpacked(brush_rle(mask)).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(rgba, np.repeat(mask[..., None] * 255, 4, axis=2))
