"""The limits of the gate, at their edges, and the lines that it refuses with."""

from typing import Any

import pytest

from semseg_app.export.acceptance import GATES, reasons_of_layers, reasons_of_row, reasons_of_scores


def row(agreement: float, confidence_difference: int, **more: Any) -> dict[str, Any]:
    return {
        "height": 127,
        "width": 131,
        "batch": 3,
        "agreement": agreement,
        "confidence_difference": confidence_difference,
        **more,
    }


@pytest.mark.parametrize(("precision", "lowest"), [("fp32", 0.9999), ("fp16", 0.999), ("int8", 0.9)])
def test_agreement(precision: str, lowest: float) -> None:
    gate = GATES[precision]
    assert reasons_of_row(row(lowest, 2), gate) == []
    (reason,) = reasons_of_row(row(lowest - 1e-6, 2), gate)
    assert reason.startswith("at 131x127, batch 3, ")
    assert reason.endswith(f"of the pixels agree, below {lowest:.2%}")


def test_confidence_and_what_does_not_run() -> None:
    assert reasons_of_row(row(1.0, 3), GATES["fp32"]) == ["at 131x127, batch 3, confidence is off by 3 of 255, above 2"]
    assert reasons_of_row(row(1.0, 13), GATES["fp16"]) != []
    assert reasons_of_row(row(1.0, 255), GATES["int8"]) == []
    assert reasons_of_row(row(0.0, 255, error="bad index"), GATES["int8"]) == [
        "at 131x127, batch 3, it does not run: bad index"
    ]


def scores(miou: float, boundary_iou: float, calibration_error: float) -> dict[str, float]:
    return {"miou": miou, "boundary_iou": boundary_iou, "calibration_error": calibration_error}


@pytest.mark.parametrize(
    ("precision", "fall", "rise"), [("fp32", 0.001, 0.001), ("fp16", 0.001, 0.001), ("int8", 0.007, 1.0)]
)
def test_miou_may_fall_and_rise_so_far(precision: str, fall: float, rise: float) -> None:
    gate, trained = GATES[precision], scores(0.6, 0.4, 0.05)

    def reasons(change: float) -> list[str]:
        return reasons_of_scores(trained, trained | {"miou": trained["miou"] + change}, gate)

    assert reasons(-fall * 0.99) == []
    assert reasons(-fall * 1.01) == [f"mIoU changes by {-101 * fall:+.2f} points"]
    assert reasons(min(rise, 0.3) * 0.99) == []
    assert reasons(rise * 1.01) != []


def test_boundaries_and_calibration_may_get_better_but_not_worse() -> None:
    trained, gate = scores(0.6, 0.4, 0.05), GATES["int8"]
    assert reasons_of_scores(trained, scores(0.6, 0.9, 0.0), gate) == []
    assert reasons_of_scores(trained, scores(0.6, 0.38, 0.07), gate) == [
        "boundary IoU changes by -2.00 points",
        "calibration error changes by +2.00 points",
    ]


def test_layers_are_what_the_file_says() -> None:
    found = {"conv1": "int8", "conv2": "fp32", "conv3": "int8"}
    assert reasons_of_layers("int8", ["conv2"], found) == []
    assert reasons_of_layers("int8", [], found) == ["1 of 3 layers are not what the file says: conv2 is fp32, not int8"]
    assert reasons_of_layers("int8", ["conv1", "conv2"], found) == [
        "1 of 3 layers are not what the file says: conv1 is int8, not fp32"
    ]
    assert reasons_of_layers("fp16", ["conv1"], {"conv1": "fp32"}) == [
        "no layer computes in fp16, though the file says so"
    ]
