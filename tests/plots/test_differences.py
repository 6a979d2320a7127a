"""Where two models differ, on class maps small enough to count by hand."""

import numpy as np

from semseg_app.labels import IGNORE
from semseg_app.plots.differences import MOST_BOXES, differences, regions


def test_pixels_that_one_has_right_and_the_other_wrong() -> None:
    label = np.array([[0, 0, 0, 0], [1, 1, 1, IGNORE]], np.uint8)
    first = np.array([[0, 1, 0, 2], [1, 0, 2, 1]], np.uint8)
    last = np.array([[0, 0, 1, 1], [1, 1, 0, 0]], np.uint8)
    found = differences(label, first, last)
    # (0, 1) and (1, 1) are right only in the last, (0, 2) only in the first; (0, 3) and (1, 2) are wrong in both.
    np.testing.assert_array_equal(found.gained, [[0, 1, 0, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(found.lost, [[0, 0, 1, 0], [0, 0, 0, 0]])
    assert found.to_json() == {"labeled_pixels": 7, "gained_pixels": 2, "lost_pixels": 1, "boxes": []}


def test_boxes_are_drawn_around_the_largest_regions() -> None:
    changed = np.zeros((60, 100), bool)
    changed[10:20, 30:35] = True  # 50 pixels
    changed[50:54, 80:90] = True  # 40
    changed[51, 20:80] = True  # a line of one pixel that leads there from the left
    changed[0:5, 0:5] = True  # 25
    changed[30:34, 60:65] = True  # 20
    changed[58, 2] = True  # below the smallest
    assert [tuple(box) for box in regions(changed)] == [(30, 10, 5, 10), (80, 50, 10, 4), (0, 0, 5, 5)]
    assert len(regions(changed)) == MOST_BOXES
    assert regions(np.zeros((60, 100), bool)) == []
    alone = np.zeros((60, 100), bool)
    alone[58, 2] = True
    assert regions(alone) == []
