"""The doctor's eye for masks: what a single one shows, and what only all of them together show."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from semseg_app.data.dataset import DatasetInfo, SegmentationData, default_palette
from semseg_app.data.findings import Finding
from semseg_app.data.inspection import MOST_COLORS, MaskFacts
from semseg_app.data.mask_pixels import HIGHEST, LOWEST
from semseg_app.labels import IGNORE, Color, hex_color

WHITE_FIRST = {0: (255, 255, 255), 1: (0, 0, 0)}
STRANGE = -1
"""Stands for the class of a value or color that means nothing in this dataset."""


class ClassCounts(NamedTuple):
    """Pixels of one mask."""

    classes: np.ndarray
    """int64 [C]."""
    ignored: int


class MaskStudy:
    """Looks at every mask once (`look`), then at what they have in common (`conclude`)."""

    def __init__(self, data: SegmentationData):
        self.data = data
        self.info = data.info
        self.values: Counter[int] = Counter()
        """Value -> pixels over all masks of numbers."""
        self.first_file: dict[int, str] = {}
        """Value -> the first mask that holds it."""
        self.colors: Counter[Color] = Counter()
        """Color -> pixels over all masks whose colors are (or must become) the classes."""
        self.number_colors: dict[Color, set[int]] = {}
        """For masks of numbers: color that a viewer shows (gray without a palette) -> the classes it stood for."""
        self._binary_files: list[str] = []
        self._one_bit_files: list[str] = []
        self._holds_255_and_classes = False
        """Whether some mask holds 255 beside a class other than 0, as masks do whose 255 is ignored."""
        self._numbered: dict[Color, dict[int, list[str]]] = {}
        """Color of a palette mask -> its number -> the masks that number it so."""
        self._palettes_have_gaps = False
        """Whether some palette mask leaves out a number below its highest: no PNG optimizer wrote that one."""
        self._has_other_values = False
        self.moved_numbers = False
        """Whether a PNG optimizer has been at some of them."""
        self.zero_is_rarer = Counter[bool]()
        """Votes of the masks: whether 0 covers less of it than the value after the last class; a tie is no vote."""
        self._default_palette = default_palette(len(self.info.palette))
        self._known_colors = dict(zip(*(array.tolist() for array in data.color_lookup), strict=True))

    def look(self, file: str, facts: MaskFacts) -> tuple[ClassCounts | None, list[Finding]]:
        """Counts (None where no class can be told) and findings of one readable mask."""
        found = []
        if facts.lossy:
            found.append(
                Finding("lossy-mask", "a JPEG: its edges hold values that no annotator drew; export it as PNG", file)
            )
        if self.info.color_map is not None:
            counts, more = self._look_at_colors(file, facts)
        elif facts.values is None:
            self.colors.update(facts.colors)
            counts, more = None, [Finding("color-mask", describe_colors(facts.colors or {}, self.info), file)]
        else:
            counts, more = self._look_at_numbers(file, facts, facts.values)
        if counts is not None and counts.ignored == facts.size[0] * facts.size[1]:
            more.append(Finding("empty-mask", "every pixel is ignored", file))
        return counts, found + more

    def conclude(self) -> list[Finding]:
        """What the masks show together."""
        found: list[Finding] = []
        if self.all_binary():
            found += [_binary(file) for file in self._binary_files]
        elif self.data.num_classes == 2 and 1 in self.values and not self._holds_255_and_classes:
            message = "holds 0 and 255, where other masks hold 0 and 1: 255 is read as ignored and probably is class 1"
            found += [Finding("binary-mask", message, file) for file in self._binary_files]
        found += self._renumbered()
        if self._has_other_values:
            message = "its white is read as 1; a PNG optimizer also makes such files of masks that held 0 and 255"
            found += [Finding("one-bit-mask", message, file) for file in self._one_bit_files]
        if (wrong := self.shifted_value()) is not None:
            if 0 not in self.values:
                message = f"labels run from 1 to {wrong}, but the classes are 0 to {wrong - 1}; --fix-map subtracts one"
            else:
                message = (
                    f"labels run from 0 to {wrong}, but the classes are 0 to {wrong - 1}: if 0 means no label (as in "
                    f"ADE20K), --fix-map shifts them; if {wrong} means no label, write ignore_index: {wrong}"
                )
            found.append(Finding("off-by-one", message, self.first_file[wrong]))
        return found

    def _renumbered(self) -> list[Finding]:
        """Palette masks that number a color unlike most others: PNG optimizers renumber each file's palette."""
        found: dict[str, Finding] = {}
        for color, usual, others in self._oddly_numbered():
            for number, files in others.items():
                others_too = f" (as in {len(files) - 1} more)" if len(files) > 1 else ""
                message = (
                    f"{hex_color(color)} is number {number} in its palette{others_too}, {usual} in most masks: a PNG "
                    "optimizer renumbers palettes; export the masks again, or write a color_map"
                )
                found.setdefault(files[0], Finding("palette-mask", message, files[0]))
        for number, colors in self._shared_numbers():
            shown = ", ".join(f"{hex_color(color)} in {len(files):,}" for color, files in colors.items())
            first = next(iter(colors.values()))[0]
            message = (
                f"number {number} has several colors in the palettes of the masks ({shown}): a PNG optimizer numbers "
                "each mask's own colors from 0; export the masks again, or write a color_map"
            )
            found.setdefault(first, Finding("palette-mask", message, first))
        return list(found.values())

    def renumbered_files(self) -> set[str]:
        """All masks that `conclude` means by those whose palettes are numbered unlike others."""
        odd = [files for _, _, others in self._oddly_numbered() for files in others.values()]
        odd += [files for _, colors in self._shared_numbers() for files in colors.values()]
        return {file for files in odd for file in files}

    def _shared_numbers(self) -> Iterator[tuple[int, dict[Color, list[str]]]]:
        """Each number that palettes show in several colors, and the masks of each, where all may be an optimizer's.

        Two tools have palettes of their own, too; but among the masks of three classes some leave one out, and together
        they have more colors than classes (of which one may be void).
        """
        if self._palettes_have_gaps or self.data.num_classes < 3 or self.info.label_map is not None:
            return
        if len(self._numbered) > self.data.num_classes + 1:
            return
        if any(len(numbers) > 1 for numbers in self._numbered.values()):
            return  # `_oddly_numbered` knows which masks are unlike the others
        colors_of: dict[int, dict[Color, list[str]]] = {}
        for color, numbers in self._numbered.items():
            for number, files in numbers.items():
                colors_of.setdefault(number, {})[color] = files
        yield from ((number, colors) for number, colors in sorted(colors_of.items()) if len(colors) > 1)

    def _oddly_numbered(self) -> Iterator[tuple[Color, int, dict[int, list[str]]]]:
        """Each color of palette masks, its usual number, and the masks of each other number."""
        for color, numbers in self._numbered.items():
            usual = max(numbers, key=lambda number: len(numbers[number]))
            yield color, usual, {number: files for number, files in numbers.items() if number != usual}

    def few_classes(self) -> str | None:
        """What to say where only folder names tell which published dataset this is, and the masks tell otherwise.

        Own masks start with the first numbers and have far fewer than a published dataset.
        """
        own = sorted(value for value in self.values if value not in (IGNORE, self.info.ignore_index))
        if not self.data.guessed or not own or len(own) * 3 > self.data.num_classes:
            return None
        if own[0] > 1 or own != list(range(own[0], own[0] + len(own))):
            return None
        return (
            f"the masks hold only {', '.join(map(str, own))}, but {self.info.name} has {self.data.num_classes} classes;"
            f" if these are your own classes, write their names, one per line, into"
            f" {self.data.root / 'class_names.txt'}"
        )

    def shifted_value(self) -> int | None:
        """The value C, where only 0 to C-1 are classes and C looks like the last of labels that start at 1; or None."""
        count = self.data.num_classes
        if count == 1:
            return None  # its masks show it and the rest, whose name is missing
        if self.info.label_map is not None or self.info.color_map is not None or count not in self.values:
            return None
        if not set(self.values) <= {*range(count + 1), self.info.ignore_index, IGNORE}:
            return None
        # Where C is the ignore value it has every right to be there, unless nothing at all is called 0.
        return count if self.info.ignore_index != count or 0 not in self.values else None

    def all_binary(self) -> bool:
        """All masks hold 0 and 255 only, and there is a second class that 255 must mean."""
        return self._is_binary(self.values) and 0 in self.values

    def _is_binary(self, values: Mapping[int, int]) -> bool:
        told = self.info.label_map is not None or self.info.color_map is not None or self.data.num_classes < 2
        return not told and 255 in values and set(values) <= {0, 255}

    def _look_at_numbers(
        self, file: str, facts: MaskFacts, values: dict[int, int]
    ) -> tuple[ClassCounts, list[Finding]]:
        self.values.update(values)
        for value in values:
            self.first_file.setdefault(value, file)
        zeros, last = values.get(0, 0), values.get(self.data.num_classes, 0)
        if zeros != last:
            self.zero_is_rarer[zeros < last] += 1
        classes = dict(zip(values, self.data.classes_of(np.array([*values], np.int64)).tolist(), strict=True))
        outside = {value: pixels for value, pixels in values.items() if classes[value] == STRANGE}
        counts = self._count([(classes[value], pixels) for value, pixels in values.items()])
        if (moved := self._moved_numbers(facts, values)) is not None:
            self.moved_numbers = True
            return counts, [Finding("gray-palette-mask", moved, file)]
        if facts.mode == "1":
            self._one_bit_files.append(file)
        elif set(values) - {0, 1}:
            self._has_other_values = True
        if self._palette_says_otherwise(facts, outside=bool(outside)):
            shown = {facts.palette[value]: pixels for value, pixels in values.items()}
            self.colors.update(shown)
            return counts, [Finding("palette-mask", describe_colors(shown, self.info), file)]
        if self.info.label_map is None and facts.palette == WHITE_FIRST:
            self.colors.update({facts.palette[value]: pixels for value, pixels in values.items()})
            message = "its palette shows 0 as white and 1 as black; --fix-map reads white as class 1"
            return counts, [Finding("palette-mask", message, file)]
        if self._renumbers_voc(facts):
            message = (
                "its palette has VOC's colors under other numbers: a PNG optimizer renumbers palettes; export again"
            )
            self.moved_numbers = True
            return counts, [Finding("palette-mask", message, file)]
        for value in values.keys() & range(256):
            color = facts.palette.get(value, (value, value, value))
            self.number_colors.setdefault(color, set()).add(classes[value])
        self._holds_255_and_classes |= 255 in values and bool(set(values) - {0, 255})
        for value, color in facts.palette.items():
            self._numbered.setdefault(color, {}).setdefault(value, []).append(file)
        self._palettes_have_gaps |= bool(facts.palette) and set(facts.palette) != set(range(len(facts.palette)))
        if outside and self._is_binary(values):
            return counts, [_binary(file)]
        if outside:
            return counts, [Finding("value-outside", describe_values(outside, values, self.info), file)]
        if self._is_binary(values):
            self._binary_files.append(file)
        return counts, []

    def _moved_numbers(self, facts: MaskFacts, values: Mapping[int, int]) -> str | None:
        """What to say of a palette of grays that are the class numbers, while the indices are something else."""
        grays = {value: color[0] for value, color in facts.palette.items() if value in values and len(set(color)) == 1}
        if len(grays) < len(values) or all(value == gray for value, gray in grays.items()):
            return None
        if set(grays.values()) <= {0, 255} or any(self.data.lookup[gray] < 0 for gray in grays.values()):
            return None
        pairs = ", ".join(f"{value} shows gray {gray}" for value, gray in sorted(grays.items())[:4])
        return f"its palette of grays holds the class numbers, not its indices ({pairs}); save it as grayscale"

    def _palette_says_otherwise(self, facts: MaskFacts, outside: bool) -> bool:
        """A palette PNG whose colors are the classes, in another order than its numbers.

        While its numbers are good, every color must be a class to say so; else half of them (the rest may be void).
        """
        palette = self.info.palette
        if self.info.label_map is not None or palette == self._default_palette:
            return False  # a default palette, not written in dataset.yaml, proves nothing
        drawn = {value: color for value, color in facts.palette.items() if value != self.info.ignore_index}
        classes = {value: color for value, color in drawn.items() if color in palette}
        in_order = all(value < len(palette) and palette[value] == color for value, color in classes.items())
        return not in_order and len(classes) >= (len(drawn) / 2 if outside else len(drawn))

    def _renumbers_voc(self, facts: MaskFacts) -> bool:
        """Whether all colors are VOC's, which many tools use, for classes of this dataset, but the numbers are not."""
        if self.info.label_map is not None or self.info.palette != self._default_palette:
            return False
        number_of = {color: number for number, color in enumerate([(0, 0, 0), *self.info.palette[:-1]])}
        drawn = {value: color for value, color in facts.palette.items() if value != self.info.ignore_index}
        if len(set(drawn.values()) - {(0, 0, 0)}) < 2 or not set(drawn.values()) <= set(number_of):
            return False
        ours = all(
            value < len(self.info.palette) and self.info.palette[value] == color for value, color in drawn.items()
        )
        return not ours and any(number_of[color] != value for value, color in drawn.items())

    def _look_at_colors(self, file: str, facts: MaskFacts) -> tuple[ClassCounts, list[Finding]]:
        colors = facts.colors or {}
        if beyond := [value for value in facts.values or () if value not in range(256)]:
            message = f"holds {beyond[0]}, which is no color of the color_map; save it as a picture"
            return self._count([]), [Finding("value-outside", message, file)]
        if facts.values is not None:
            gray = {value: (value * facts.shade,) * 3 for value in facts.values}
            colors = {facts.palette.get(value, gray[value]): pixels for value, pixels in facts.values.items()}
        classes = {color: self._known_colors.get(color_code(color), STRANGE) for color in colors}
        self.colors.update(colors)
        strange = {color: pixels for color, pixels in colors.items() if classes[color] == STRANGE}
        counts = self._count([(classes[color], pixels) for color, pixels in colors.items()])
        if strange or not colors:
            return counts, [
                Finding("value-outside", "not in the color_map: " + describe_colors(strange, self.info), file)
            ]
        return counts, []

    def _count(self, pairs: list[tuple[int, int]]) -> ClassCounts:
        """(class, pixels) pairs -> sums."""
        classes = np.zeros(self.data.num_classes, np.int64)
        ignored = 0
        for index, pixels in pairs:
            if index == IGNORE:
                ignored += pixels
            elif index != STRANGE:
                classes[index] += pixels
        return ClassCounts(classes, ignored)


def color_code(color: Color) -> int:
    """0xRRGGBB."""
    return color[0] << 16 | color[1] << 8 | color[2]


def describe_values(outside: Mapping[int, int], all_values: Mapping[int, int], info: DatasetInfo) -> str:
    """Which values, how much of the mask they cover, and what would be allowed."""
    total = sum(all_values.values())
    shown = [f"{value} ({_percent(pixels / total)})" for value, pixels in sorted(outside.items())[:6]]
    more = f" and {len(outside) - 6} more" if len(outside) > 6 else ""
    if info.label_map is not None:
        allowed = "label_map names " + ", ".join(str(value) for value in sorted(info.label_map)[:12])
        allowed += ", ..." if len(info.label_map) > 12 else ""
    else:
        allowed = f"classes are 0 to {len(info.classes) - 1}, ignore is {info.ignore_index}"
    if min(outside) < LOWEST or max(outside) > HIGHEST:
        allowed += f"; a label_map takes values from {LOWEST} to {HIGHEST}, so save the others as 255"
    return f"{', '.join(shown)}{more}; {allowed}"


def describe_colors(colors: Mapping[Color, int], info: DatasetInfo) -> str:
    """Which colors a mask holds, the largest first, and which class each has in the palette."""
    if not colors:
        return f"more than {MOST_COLORS} colors: blurred, resized or compressed, or a photo"
    total = sum(colors.values())
    names = dict(zip(info.palette, info.classes, strict=True))
    largest = sorted(colors, key=lambda color: (-colors[color], color))
    parts = [
        f"{hex_color(color)} = {names.get(color, 'no class')} ({_percent(colors[color] / total)})"
        for color in largest[:6]
    ]
    more = f" and {len(colors) - 6} more" if len(colors) > 6 else ""
    hint = ""
    if are_numbers_in_gray(colors, info):
        hint = "; its channels hold class numbers: save one of them"
    return ", ".join(parts) + more + hint


def are_numbers_in_gray(colors: Mapping[Color, int], info: DatasetInfo) -> bool:
    """Class numbers saved as a picture, in three equal channels or in one."""
    numbers = numbers_in_channels(colors)
    allowed = {*range(len(info.classes)), info.ignore_index}
    return bool(numbers) and numbers is not None and set(numbers.values()) <= allowed


def numbers_in_channels(colors: Iterable[Color]) -> dict[Color, int] | None:
    """Color -> the number that it holds, where all colors have three equal channels, or one channel besides zeros."""
    listed = list(colors)
    if all(len(set(color)) == 1 for color in listed):
        return {color: color[0] for color in listed}
    for channel in range(3):
        if all(color[channel] == sum(color) for color in listed):
            return {color: color[channel] for color in listed}
    return None


def _percent(fraction: float) -> str:
    return f"{fraction:.1%}" if fraction >= 0.0005 else "<0.1%"


def _binary(file: str) -> Finding:
    return Finding("binary-mask", "holds 0 and 255 only; --fix-map reads 255 as class 1", file)
