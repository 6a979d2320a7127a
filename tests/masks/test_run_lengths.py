import numpy as np
import pytest
from pycocotools import mask as coco

from semseg_app.masks.regions import regions
from semseg_app.masks.run_lengths import coco_rle, compressed


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools, with numpy 2
def test_pycocotools_makes_the_same_text_and_reads_it_back(scene):
    height, width = scene.shape
    found = coco_rle(scene)
    assert sorted(found) == np.unique(scene).tolist()
    for index, counts in found.items():
        ones = np.asfortranarray(scene == index, np.uint8)
        assert coco.encode(ones) == {"size": [height, width], "counts": counts.encode()}
        np.testing.assert_array_equal(coco.decode({"size": [height, width], "counts": counts}), ones)


def test_runs_of_every_length():
    """Up to the largest that pycocotools holds in 32 bits: one to seven characters."""
    lengths = np.array([0, *(2**bits + change for bits in range(1, 28) for change in (-1, 0, 1)), 5])
    assert (
        coco.frPyObjects({"size": [1, int(lengths.sum())], "counts": lengths.tolist()}, 1, int(lengths.sum()))["counts"]
        == compressed(lengths).encode()
    )


def test_areas_and_boxes(scene):
    height, width = scene.shape
    found = regions(scene)
    assert [region.class_index for region in found] == np.unique(scene).tolist()
    for region in found:
        rle = coco.encode(np.asfortranarray(scene == region.class_index, np.uint8))
        assert region.area == coco.area(rle)
        assert [region.left, region.top, region.width, region.height] == coco.toBbox(rle).tolist()
    assert sum(region.area for region in found) == height * width


def test_nothing_of_nothing():
    assert regions(np.zeros((0, 5), np.uint8)) == []
    assert coco_rle(np.zeros((5, 0), np.uint8)) == {}
