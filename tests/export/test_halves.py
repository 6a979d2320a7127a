"""A model that is loaded twice: its half takes two calls at once and answers, bit by bit, what the whole answers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from semseg_app.export.verification_set import generated_photos
from semseg_app.inference.engines.halves import Halves, half_of, open_halves
from semseg_app.inference.engines.open import open_engine


@pytest.mark.parametrize("kind", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("architecture", ["deeplabv3plus", "segformer"])
def test_both_answer_the_same_two_at_a_time(exported: Callable[[str], Path], kind: str, architecture: str) -> None:
    engine = open_halves(exported(architecture), kind, "cpu", 2)
    assert isinstance(engine, Halves)
    assert engine.half is not None
    assert (engine.kind, engine.device, engine.precision) == (kind, "cpu", "fp32")
    photos = [photo[None, :160, :200] for photo in generated_photos(2)]
    expected = [engine.infer(photo) for photo in photos]
    assert len(np.unique([answer.classes for answer in expected])) > 1
    with ThreadPoolExecutor(2) as two:
        found = list(two.map(engine.half.infer, photos))
        class_maps = list(two.map(engine.half.classes, photos))
    np.testing.assert_array_equal([answer.classes for answer in found], [answer.classes for answer in expected])
    np.testing.assert_array_equal([answer.confidence for answer in found], [answer.confidence for answer in expected])
    np.testing.assert_array_equal(class_maps, [answer.classes for answer in expected])


def test_none_where_there_is_nothing_to_halve(exported: Callable[[str], Path]) -> None:
    model = exported("deeplabv3plus")
    assert half_of(open_halves(model, "onnxruntime", "cpu", 1)) is None
    assert half_of(open_halves(model, "torch", "cpu", 2)) is None
    assert half_of(open_engine(model, "onnxruntime", "cpu", 2)) is None
