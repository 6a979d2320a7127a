"""A dataset.yaml with the label_map or color_map that the doctor proposes. Nothing is changed in place."""

from pathlib import Path
from typing import NamedTuple

import yaml

from semseg_app.data.check_masks import MaskStudy, are_numbers_in_gray, color_code
from semseg_app.data.dataset import DatasetInfo, default_palette
from semseg_app.files import atomic_file
from semseg_app.labels import hex_color

MOST_STRANGE_COLORS = 64
"""More colors without a class than this are blurred edges, not classes: they are left out of the map."""


class Proposal(NamedTuple):
    """What to write, and why."""

    info: DatasetInfo
    reasons: list[str]


def propose(study: MaskStudy) -> Proposal | None:
    """A description of the dataset under which its masks are valid, or None where no map is called for."""
    info = study.info
    if study.colors:
        return _by_color(info, study)
    if study.all_binary() or (1 not in study.values and _outside(study) == [255] and len(info.classes) > 1):
        return _by_value(info, {0: 0, 255: 1}, ["the masks hold 0 and 255: 255 becomes class 1"])
    if (shifted := study.shifted_value()) is not None:
        ignore = 255 if info.ignore_index == shifted else info.ignore_index
        mapping = {0: ignore, **{value: value - 1 for value in range(1, shifted + 1)}, ignore: ignore}
        reasons = [f"labels 1 to {shifted} become classes 0 to {shifted - 1}; 0 is ignored"]
        return _by_value(info.model_copy(update={"ignore_index": ignore}), mapping, reasons)
    if outside := _outside(study):
        known = info.label_map or {
            **{index: index for index in range(len(info.classes))},
            info.ignore_index: info.ignore_index,
        }
        reasons = [f"{', '.join(map(str, outside))}: no class, so ignored; write the class behind it where it has one"]
        return _by_value(info, {**known, **dict.fromkeys(outside, info.ignore_index)}, reasons)
    return None


def write_proposal(path: Path, proposal: Proposal) -> None:
    """Write the proposal as a dataset.yaml, its reasons as comments."""
    content = proposal.info.model_dump(exclude_none=True)
    if proposal.info.palette == default_palette(len(proposal.info.classes)):
        del content["palette"]
    else:
        content["palette"] = [list(color) for color in content["palette"]]
    comments = "".join(f"# {reason}\n" for reason in ("Proposed by `semseg check --fix-map`.", *proposal.reasons))
    text = yaml.safe_dump(content, default_flow_style=None, sort_keys=False, allow_unicode=True, width=118)
    with atomic_file(path) as part:
        part.write_text(comments + text, encoding="utf-8")


def _outside(study: MaskStudy) -> list[int]:
    return sorted(value for value in study.values if 0 <= value <= 255 and study.data.lookup[value] < 0)


def _by_value(info: DatasetInfo, mapping: dict[int, int], reasons: list[str]) -> Proposal:
    return Proposal(info.model_copy(update={"label_map": dict(sorted(mapping.items()))}), reasons)


def _by_color(info: DatasetInfo, study: MaskStudy) -> Proposal | None:
    mapping = {color.lower(): target for color, target in (info.color_map or {}).items()}
    targets = {color: index for index, color in reversed(list(enumerate(info.palette)))}
    if are_numbers_in_gray(study.colors, info) and not set(study.colors) <= set(targets):
        targets = {color: color[0] for color in study.colors}
    fresh = sorted((color for color in study.colors if hex_color(color) not in mapping), key=color_code)
    strange = [color for color in fresh if color not in targets]
    if not fresh:
        return None
    reasons = []
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
