import numpy as np
import pytest

from semseg_app.masks.brush import brush_rle


def unpacked(data: list[int]) -> np.ndarray:
    """Bit by bit, as rle-pack's own decoder goes: the values, uint8 `[N]`."""
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    size, word, widths = read(32), read(5) + 1, [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < size:
        is_run = read(1)
        length = read(widths[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    assert len(values) == size
    assert len(bits) - at < 8
    return np.array(values, np.uint8)


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
