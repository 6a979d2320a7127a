"""Charts as SVG, read back as XML."""

import math
import xml.etree.ElementTree as ElementTree

from semseg_app.plots.svg import LEFT, RIGHT, WIDTH, line_chart, sparkline


def svg(text: str) -> ElementTree.Element:
    found = ElementTree.fromstring(text).find("svg")
    assert found is not None
    return found


def test_points_lie_where_the_axis_says() -> None:
    chart = svg(line_chart({"a<b": [(0, 0.0), (10, 5.0), (20, 10.0)]}, "t", " %"))
    line = chart.find("polyline")
    assert line is not None
    points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert [x for x, _ in points] == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    heights = {text.text: float(text.attrib["y"]) - 4 for text in chart.iter("text") if "%" in (text.text or "")}
    assert abs(heights["0 %"] - points[0][1]) < 0.2
    assert abs(heights["10 %"] - points[2][1]) < 0.2
    assert abs((points[0][1] + points[2][1]) / 2 - points[1][1]) < 0.2


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors() -> None:
    line = svg(line_chart({"loss": [(0, 100.0), (1, 10.0), (2, 1.0)]}, "t", log=True)).find("polyline")
    assert line is not None
    high, middle, low = (float(pair.split(",")[1]) for pair in line.attrib["points"].split())
    assert abs((low - middle) - (middle - high)) < 0.2


def test_nothing_finite_is_no_chart_and_long_logs_are_thinned_to_their_end() -> None:
    assert line_chart({"a": [(1, math.nan)]}, "t") == ""
    assert sparkline([(1, 0.5)]) == ""
    line = svg(line_chart({"a": [(step, step % 7) for step in range(5000)]}, "t")).find("polyline")
    assert line is not None
    points = line.attrib["points"].split()
    assert len(points) <= 240
    assert points[-1].startswith(f"{WIDTH - RIGHT:.1f},")


def test_a_constant_and_one_point_can_be_drawn() -> None:
    for points in ([(3, 0.0)], [(1, 2.5), (2, 2.5)]):
        chart = svg(line_chart({"a": points}, "t"))
        assert all("nan" not in str(element.attrib) for element in chart.iter())
