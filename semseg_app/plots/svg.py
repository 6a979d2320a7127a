"""Line charts as SVG text, to go into a page: no library, no script, colors from the page's own style sheet.

A page defines the custom properties --line-0 ... --line-7 for series, --grid and --muted for the frame, so that one
chart fits a light and a dark page.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

COLORS = 8
WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 26
MOST_POINTS = 240
"""More are thinned out: a log may have thousands of lines, and a chart is no wider than a phone."""
MOST_DOTS = 30
"""Series with no more points than this show each as a dot."""


def line_chart(series: Mapping[str, Points], title: str, unit: str = "", log: bool = False) -> str:
    """A figure with one line for each series and a legend; empty text where no series has a point.

    Args:
        series: name -> (step, value), by rising steps; values that are not finite are left out.
        title: above the chart.
        unit: behind the values of the axis, such as " %".
        log: a logarithmic axis, where every value is above 0.
    """
    kept = {name: _thin([point for point in points if math.isfinite(point[1])]) for name, points in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    steps = [step for points in kept.values() for step, _ in points]
    values = [value for points in kept.values() for _, value in points]
    log = log and min(values) > 0 and max(values) > 10 * min(values)
    ticks = _powers(min(values), max(values)) if log else _nice(min(values), max(values))
    low, high = min(ticks[0], min(values)), max(ticks[-1], max(values))
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def across(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / (last - first)

    def down(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = []
    for tick in ticks:
        y = down(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--grid)"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}{escape(unit)}</text>')
    for step in (first, last):
        anchor = "start" if step == first else "end"
        parts.append(f'<text x="{across(step):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">step {step:,.0f}</text>')
    for number, (name, points) in enumerate(kept.items()):
        color = f"var(--line-{number % COLORS})"
        dashes = ' stroke-dasharray="5 3"' if number >= COLORS else ""
        line = " ".join(f"{across(step):.1f},{down(value):.1f}" for step, value in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"{dashes}/>')
        for step, value in points if len(points) <= MOST_DOTS else points[-1:]:
            told = f"{escape(name)}, step {step:,.0f}: {_number(value)}{escape(unit)}"
            place = f'cx="{across(step):.1f}" cy="{down(value):.1f}"'
            parts.append(f'<circle {place} r="3" fill="{color}"><title>{told}</title></circle>')
    legend = "".join(
        f'<span><i style="background:var(--line-{number % COLORS})"></i>{escape(name)} '
        f"<b>{_number(points[-1][1])}{escape(unit)}</b></span>"
        for number, (name, points) in enumerate(kept.items())
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )


def sparkline(points: Points) -> str:
    """A line without axes, of values from 0 to 1; empty text for fewer than two points."""
    points = _thin([point for point in points if math.isfinite(point[1])])
    if len(points) < 2:
        return ""
    first, last = points[0][0], points[-1][0]
    line = " ".join(f"{80 * (step - first) / (last - first):.1f},{19 - 18 * value:.1f}" for step, value in points)
    return (
        '<svg class="spark" viewBox="0 0 80 20" aria-hidden="true">'
        f'<polyline points="{line}" fill="none" stroke="var(--line-0)" stroke-width="1.5"/></svg>'
    )


def _thin(points: Points) -> Points:
    """At most MOST_POINTS, the last among them."""
    every = -(-len(points) // MOST_POINTS)
    return points if every <= 1 else list(reversed(points[::-1][::every]))


def _nice(low: float, high: float) -> list[float]:
    """Round numbers around [low, high], 1, 2 or 5 times a power of ten apart; three to six of them."""
    if high - low < 1e-9 * max(abs(high), 1e-9):
        low, high = low - abs(low) / 2 - 1e-9, high + abs(high) / 2 + 1e-9
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [number * step for number in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def _powers(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def _number(value: float) -> str:
    """Short: 0.25, 12.5, 1,200, 3e-05."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.0e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
