"""Class lists that annotation tools write beside their masks: what the data says of itself beats what it looks like.

labelmap.txt        CVAT, datumaro (Segmentation mask 1.1)   `name:r,g,b:parts:actions`; masks are pictures of colors,
                    those of Pascal VOC where datumaro leaves the color of every class empty
class_names.txt     labelme2voc                              a name on each line; masks hold the line numbers
label_colors.txt    SegNet's CamVid, some converters         `r g b name`; masks are pictures of colors
_classes.csv        Roboflow (semantic segmentation)         `value, name`; masks hold the values
class_dict.csv      Semantic-Segmentation-Suite, Kaggle      `name,r,g,b`; masks are pictures of colors

Others only name the numbers of masks that nothing else describes (`read_names`): a list of names (PaddleSeg, fastai), a
JSON file (nnU-Net, Hugging Face), or the data.yaml of Ultralytics.
"""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from semseg_app.data.description import DatasetInfo, default_palette, read_yaml
from semseg_app.errors import UserError, explain
from semseg_app.labels import IGNORE, Color, hex_color


def read_class_file(root: Path) -> tuple[Path, DatasetInfo] | None:
    """The class file in `root` and what it says, or None in a folder without one. UserError for a malformed one."""
    return _first_of(READERS, root)


def read_names(root: Path) -> tuple[Path, DatasetInfo] | None:
    """The same where nothing but such a file says what masks hold: also files that other data has for other ends."""
    return _first_of(READERS | NAME_READERS, root)


def _first_of(readers: "dict[str, Reader]", root: Path) -> tuple[Path, DatasetInfo] | None:
    for name, read in readers.items():
        path = root / name
        if path.is_file():
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except (UnicodeDecodeError, OSError) as error:
                raise UserError(f"{path}: cannot be read as text ({error}); save it as UTF-8") from None
            try:
                return path, read(path, lines)
            except ValidationError as error:
                raise explain(error, path) from None
    return None


def _labelmap(path: Path, lines: list[str]) -> DatasetInfo:
    names, colors = [], []
    content = _content(lines)
    if content and all(re.fullmatch("[^:]+:::", line) for _, line in content):
        names = [line.removesuffix(":::").strip() for _, line in content]
        return _of_colors(path, names, [(0, 0, 0), *default_palette(len(names) - 1)])
    for number, line in content:
        name, _, rest = line.partition(":")
        parts = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", rest.partition(":")[0])
        if parts is None:
            raise UserError(f"{path}:{number}: expected `name:red,green,blue:parts:actions`, found {line!r}")
        names.append(name.strip())
        colors.append(_color(path, number, parts.groups()))
    return _of_colors(path, names, colors)


def _label_colors(path: Path, lines: list[str]) -> DatasetInfo:
    names, colors = [], []
    for number, line in _content(lines):
        parts = re.fullmatch(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(.+)", line)
        if parts is None:
            raise UserError(f"{path}:{number}: expected `red green blue name`, found {line!r}")
        colors.append(_color(path, number, parts.groups()[:3]))
        names.append(parts[4].strip())
    return _of_colors(path, names, colors)


def _class_names(path: Path, lines: list[str]) -> DatasetInfo:
    """labelme's `__ignore__`, where it comes first, is -1, which a PNG holds as 255."""
    names = [line for _, line in _content(lines)]
    if names[:1] == ["__ignore__"]:
        del names[0]
    return DatasetInfo(name=path.parent.resolve().name, classes=names)


def _classes_csv(path: Path, lines: list[str]) -> DatasetInfo:
    rows = [row for row in csv.reader(lines) if any(cell.strip() for cell in row)]
    if rows and not rows[0][0].strip().isdigit():
        del rows[0]  # the heading
    values: dict[int, str] = {}
    for number, row in enumerate(rows, 2):
        if len(row) < 2 or not row[0].strip().isdigit() or int(row[0]) > 255:
            raise UserError(f"{path}:{number}: expected `value from 0 to 255, name`, found {','.join(row)!r}")
        values[int(row[0])] = row[1].strip()
    label_map = {value: index for index, value in enumerate(values)} | {IGNORE: IGNORE}
    plain = list(values) == list(range(len(values)))
    names = list(values.values())
    return DatasetInfo(name=path.parent.resolve().name, classes=names, label_map=None if plain else label_map)


def _class_dict(path: Path, lines: list[str]) -> DatasetInfo:
    names, colors = [], []
    for number, row in enumerate(csv.reader(lines), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and not "".join(cells[1:]).isdigit()):
            continue  # the heading
        if len(cells) < 4 or not all(cell.isdigit() for cell in cells[1:4]):
            raise UserError(f"{path}:{number}: expected `name,red,green,blue`, found {','.join(row)!r}")
        names.append(cells[0])
        colors.append(_color(path, number, tuple(cells[1:4])))
    return _of_colors(path, names, colors)


def _name_list(path: Path, lines: list[str]) -> DatasetInfo:
    """A name on each line, perhaps after its number."""
    names = [line for _, line in _content(lines)]
    numbered = [re.fullmatch(r"(\d+)[\s:,]+(.+)", name) for name in names]
    if names and all(numbered):
        return _by_number(path, {int(match[1]): match[2].strip() for match in numbered if match})
    return DatasetInfo(name=path.parent.resolve().name, classes=names)


def _json_names(path: Path, lines: list[str]) -> DatasetInfo:
    """nnU-Net's {"labels": {"background": 0}}, in version 1 the other way around, or Hugging Face's {"0": "plant"}."""
    try:
        content = json.loads("\n".join(lines))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    labels = content.get("labels", content) if isinstance(content, dict) else content
    if not isinstance(labels, dict):
        raise UserError(f"{path}: expected names and numbers of classes, found {type(labels).__name__}")
    numbers: dict[int, str] = {}
    for key, value in labels.items():
        number, name = (value, key) if isinstance(value, int) else (key, value)
        if not isinstance(name, str) or not str(number).isdigit():
            raise UserError(f"{path}: {key}: expected the number of a class, found {value!r}; name all with --classes")
        numbers[int(number)] = name
    return _by_number(path, numbers)


def _data_yaml(path: Path, lines: list[str]) -> DatasetInfo:
    names = read_yaml(path).get("names")
    return DatasetInfo.model_validate({"name": path.parent.resolve().name, "classes": names})


def _by_number(path: Path, names: dict[int, str]) -> DatasetInfo:
    """Masks hold the numbers; what nnU-Net calls ignore is no class."""
    kept = {number: name for number, name in sorted(names.items()) if name != "ignore"}
    label_map = {number: index for index, number in enumerate(kept)}
    label_map |= {number: IGNORE for number in (*names, IGNORE) if number not in kept}
    plain = list(kept) == list(range(len(kept))) and len(kept) == len(names)
    info = {"name": path.parent.resolve().name, "classes": list(kept.values())}
    return DatasetInfo.model_validate(info if plain else info | {"label_map": label_map})


Reader = Callable[[Path, list[str]], DatasetInfo]
READERS: dict[str, Reader] = {
    "labelmap.txt": _labelmap,
    "class_names.txt": _class_names,
    "label_colors.txt": _label_colors,
    "_classes.csv": _classes_csv,
    "class_dict.csv": _class_dict,
}
NAME_READERS: dict[str, Reader] = {
    **dict.fromkeys(("labels.txt", "classes.txt", "codes.txt"), _name_list),
    **dict.fromkeys(("dataset.json", "id2label.json"), _json_names),
    **dict.fromkeys(("data.yaml", "data.yml"), _data_yaml),
}


def _content(lines: list[str]) -> list[tuple[int, str]]:
    """(line number, text) of what is neither empty nor a comment."""
    stripped = ((number, line.strip()) for number, line in enumerate(lines, 1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def _color(path: Path, number: int, parts: tuple[str, ...]) -> Color:
    red, green, blue = (int(part) for part in parts)
    if max(red, green, blue) > 255:
        raise UserError(f"{path}:{number}: color {red},{green},{blue}: each number is 0 to 255")
    return red, green, blue


def _of_colors(path: Path, names: list[str], colors: list[Color]) -> DatasetInfo:
    twice = next((color for color in colors if colors.count(color) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: the color {twice} stands for two classes; give each its own")
    mapping = {hex_color(color): index for index, color in enumerate(colors)}
    return DatasetInfo(name=path.parent.resolve().name, classes=names, palette=colors, color_map=mapping)
