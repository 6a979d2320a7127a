"""Fewer corners: what it costs. That neighbors keep one border, tests/data/exporters/test_exporters.py shows."""

import time

import numpy as np

from semseg_app.masks.polygons import polygons
from semseg_app.masks.simplify import simplified


def comb(teeth: int) -> np.ndarray:
    """uint8 [20, 2 * teeth + 3]: teeth of equal length on a bar."""
    classes = np.zeros((20, 2 * teeth + 3), np.uint8)
    classes[2:5, 1:-1] = 1
    classes[2:18, 1:-1:2] = 1
    return classes


def test_the_work_on_a_comb_grows_with_its_teeth_and_not_with_their_square():
    seconds = []
    for teeth in (500, 4000):
        classes = comb(teeth)
        outlines = polygons(classes)
        start = time.process_time()
        simple = simplified(classes, outlines, 1.0)
        seconds.append(time.process_time() - start)
        assert len(simple[1][0].exterior) >= 2 * teeth, "teeth are longer than the tolerance, so they stay"
    assert seconds[1] < 24 * seconds[0], "8 times the teeth; the square would be 64 times"
