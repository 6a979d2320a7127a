"""A dataset.yaml with the label_map or color_map that the doctor proposes. Nothing is changed in place."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from semseg_app.data.check_masks import MaskStudy, color_code, numbers_in_channels
from semseg_app.data.dataset import DatasetInfo, default_palette
from semseg_app.data.mask_pixels import HIGHEST, LOWEST
from semseg_app.files import atomic_file
from semseg_app.labels import IGNORE, Color, hex_color

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
WHITE_OF_16_BITS = 65535
MOST_OBJECTS = 4096
DARK, LIGHT = 32, 224
"""Grays below and from which on smoothed or JPEG-compressed black and white lie, but for a few along the edges."""
MOST_ON_EDGES = 0.2
MOST_STRANGE_COLORS = 64
"""More colors without a class than this are blurred edges, not classes: they are left out of the map."""


class Proposal(NamedTuple):
    """What to write, and why."""

    info: DatasetInfo
    reasons: list[str]
    other: DatasetInfo | None = None
    """The second reading, where the masks allow two: it is written too, as comments."""
    doubtful: bool = False
    """Whether it ignores values of which nothing says what they are."""


def propose(study: MaskStudy) -> Proposal | None:
    """A description of the dataset under which its masks are valid, or None where no map is called for."""
    info = study.info
    if len(info.classes) == 1:
        return _with_background(info, study)
    if study.colors:
        return _by_color(info, study)
    if study.moved_numbers:
        return None  # the numbers themselves are gone from the files
    outside = _outside(study)
    if study.all_binary() or (1 not in study.values and outside == [255] and len(info.classes) > 1):
        return _by_value(info, {0: 0, 255: 1}, ["the masks hold 0 and 255: 255 becomes class 1"])
    if set(study.values) == {0, WHITE_OF_16_BITS} == {0, *outside} and len(info.classes) > 1:
        reason = f"the masks hold 0 and {WHITE_OF_16_BITS}, white in 16 bits: it becomes class 1"
        return _by_value(info, {0: 0, WHITE_OF_16_BITS: 1}, [reason])
    if (shifted := study.shifted_value()) is not None:
        return _shifted_or_void(info, study, shifted)
    if outside and info.label_map is None and (read := read_levels(info, study.values)):
        return _by_value(info, *read)
    many = [value for value in outside if value not in range(256)]
    if len(many) > MOST_STRANGE_COLORS:
        return None  # measurements, such as heights, rather than classes
    if outside:
        known = info.label_map or {
            **{index: index for index in range(len(info.classes))},
            info.ignore_index: info.ignore_index,
        }
        reasons = [f"{', '.join(map(str, outside))}: no class, so ignored; write the class behind it where it has one"]
        return _by_value(info, {**known, **dict.fromkeys(outside, info.ignore_index)}, reasons)._replace(doubtful=True)
    return None


def read_levels(info: DatasetInfo, pixels: Mapping[int, int]) -> tuple[dict[int, int], list[str]] | None:
    """Value -> class, and the reasons, for masks (value -> pixels) of grays or of numbered objects; None for others."""
    values, second = sorted(pixels), info.classes[-1]
    for levels in ([value for value in values if value != info.ignore_index], values):
        # Where some are numbers of classes, the others are not levels but strays.
        if len(levels) == len(info.classes) and not {*range(1, len(levels))} & set(levels):
            listed = ", ".join(f"{level} = {name}" for level, name in zip(levels, info.classes, strict=True))
            order = {level: index for index, level in enumerate(levels)}
            return {info.ignore_index: info.ignore_index, **order}, [f"levels in the order of the classes: {listed}"]
    if len(info.classes) != 2 or values[0] < 0:
        return None
    dark = sum(count for value, count in pixels.items() if value < DARK)
    light = sum(count for value, count in pixels.items() if LIGHT <= value <= IGNORE)
    edges = sum(pixels.values()) - dark - light
    if dark and light and values[-1] <= IGNORE and edges <= MOST_ON_EDGES * sum(pixels.values()):
        reason = f"black and white with the grays of smoothed edges: 128 and more becomes {second}"
        return {value: int(value > 127) for value in range(256)}, [reason]
    if values[0] == 0 and len(values) > 3 and values[-1] < min(2 * len(values), MOST_OBJECTS):
        reason = (
            f"0 to {values[-1]}, but two classes: taken for the numbers of objects, all of which become {second}; "
            "where they are classes, name them all"
        )
        return {value: int(value > 0) for value in values}, [reason]
    return None


def write_proposal(path: Path, proposal: Proposal) -> None:
    """Write the proposal as a dataset.yaml, its reasons as comments, and a second reading as comments too."""
    comments = "".join(f"# {reason}\n" for reason in ("Proposed by `semseg check --fix-map`.", *proposal.reasons))
    text = comments + _as_yaml(proposal.info)
    if proposal.other is not None:
        text += "\n# The other reading:\n"
        text += "".join(f"# {line}\n" for line in _as_yaml(proposal.other).splitlines())
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _as_yaml(info: DatasetInfo) -> str:
    content = info.model_dump(exclude_none=True)
    if info.palette == default_palette(len(info.classes)):
        del content["palette"]
    else:
        content["palette"] = [list(color) for color in content["palette"]]
    return yaml.safe_dump(content, default_flow_style=None, sort_keys=False, allow_unicode=True, width=118)


def _with_background(info: DatasetInfo, study: MaskStudy) -> Proposal | None:
    """Where one class is named, the masks show it on a background that still needs a name."""
    named = info.model_copy(
        update={"classes": ["background", *info.classes], "palette": default_palette(2), "ignore_index": IGNORE}
    )
    reasons = [f"the rest is named, too: 0 is background, what was drawn is {info.classes[0]}"]
    if set(study.colors) == {BLACK, WHITE} and not study.values:
        return Proposal(named.model_copy(update={"color_map": {hex_color(BLACK): 0, hex_color(WHITE): 1}}), reasons)
    if study.colors or 0 not in study.values or info.label_map is not None:
        return None
    if set(study.values) <= {0, 1, IGNORE} and 1 in study.values:
        return Proposal(named, reasons)
    read = read_levels(named, study.values)
    return _by_value(named, read[0], [*reasons, *read[1]]) if read else None


def _shifted_or_void(info: DatasetInfo, study: MaskStudy, last: int) -> Proposal:
    """Values 0 to C for C classes: either 0 means no label and all classes are shifted by one, or C means no label.

    Without any 0 it is the first. Else the masks vote: no label is what covers less of a mask.
    """
    ignore = 255 if info.ignore_index == last else info.ignore_index
    mapping = {0: ignore, **{value: value - 1 for value in range(1, last + 1)}, ignore: ignore}
    shifted = info.model_copy(update={"ignore_index": ignore, "label_map": dict(sorted(mapping.items()))})
    reasons = [f"labels 1 to {last} become classes 0 to {last - 1}; 0 is ignored"]
    if 0 not in study.values:
        return Proposal(shifted, reasons)
    void = info.model_copy(update={"ignore_index": last})
    votes = study.zero_is_rarer
    counted = f"0 covers less than {last} in {votes[True]} masks, more in {votes[False]}"
    if votes[True] >= votes[False]:
        reasons.append(f"{counted}: so 0 is taken for no label; the other reading is at the end")
        return Proposal(shifted, reasons, void)
    reasons = [f"{last} is ignored; {counted}: so 0 is taken for {info.classes[0]}; the other reading is at the end"]
    return Proposal(void, reasons, shifted)


def _outside(study: MaskStudy) -> list[int]:
    mapped = [value for value in study.values if LOWEST <= value <= HIGHEST]
    classes = study.data.classes_of(np.array(mapped, int))
    return sorted(value for value, index in zip(mapped, classes, strict=True) if index < 0)


def _by_value(info: DatasetInfo, mapping: dict[int, int], reasons: list[str]) -> Proposal:
    return Proposal(info.model_copy(update={"label_map": dict(sorted(mapping.items()))}), reasons)


def _by_color(info: DatasetInfo, study: MaskStudy) -> Proposal | None:
    mapping = {color.lower(): target for color, target in (info.color_map or {}).items()}
    targets = {color: index for index, color in reversed(list(enumerate(info.palette)))}
    reasons = []
    if not set(study.colors) <= set(targets) and (read := colors_as_numbers(info, study.colors)):
        targets, reason = read
        reasons.append(reason)
    seen = {*study.colors, *(color for color in targets if len(targets) > len(info.palette) and len(set(color)) == 1)}
    fresh = sorted((color for color in seen if hex_color(color) not in mapping), key=color_code)
    strange = [color for color in fresh if color not in targets]
    if not fresh:
        return None
    if len(strange) > MOST_STRANGE_COLORS:
        reasons.append(f"{len(strange)} colors match no class and are left out: export those masks without smoothing")
        fresh = [color for color in fresh if color in targets]
    elif strange:
        reasons.append("colors that match no class are ignored; write the class behind each where it has one")
    mapping.update({hex_color(color): targets.get(color, info.ignore_index) for color in fresh})
    # With a color_map every mask is read by its colors, so those of the masks of numbers must be in it too.
    for color, classes in study.number_colors.items():
        meant = {index if 0 <= index < len(info.classes) else info.ignore_index for index in classes}
        name = hex_color(color)
        if meant != {mapping.setdefault(name, min(meant))}:
            reasons.append(f"{name} means one class in masks of colors, another in masks of numbers: export all alike")
    if info.label_map is not None:
        reasons.append("label_map made way for color_map: a dataset has one of them")
    return Proposal(info.model_copy(update={"color_map": mapping, "label_map": None}), reasons)


def colors_as_numbers(info: DatasetInfo, colors: Mapping[Color, int]) -> tuple[dict[Color, int], str] | None:
    """Colors -> classes, and the reason, where pictures (color -> pixels) hold numbers in equal channels or in one."""
    if set(colors) == {BLACK, WHITE}:
        return {BLACK: 0, WHITE: 1}, "the masks are black and white: white becomes class 1"
    numbers = numbers_in_channels(colors)
    if numbers is None:
        return None
    allowed = {*range(len(info.classes)), info.ignore_index}
    if set(numbers.values()) <= allowed:
        return numbers, "the masks are pictures of class numbers"
    if (read := read_levels(info, {number: colors[color] for color, number in numbers.items()})) is None:
        return None
    mapping, reasons = read
    known = {color: mapping[number] for color, number in numbers.items()}
    grays = {(value, value, value): target for value, target in mapping.items() if len(mapping) == 256}
    return grays | known, reasons[0]
