"""Which class of the dataset each class of an export becomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from semseg_app.data.dataset import default_palette
from semseg_app.data.importers.annotated import BACKGROUND, Export, some, unique
from semseg_app.errors import UserError, did_you_mean
from semseg_app.labels import IGNORE, Color

IGNORED = "ignore"
"""In --map and --background: these pixels are 255."""
REST = "*"
"""In --map: every class that is named neither there nor in --classes."""
MOST_CLASSES = 255


@dataclass(frozen=True)
class ClassTable:
    """The classes of the dataset, and the way from those of the export."""

    classes: list[str]
    palette: list[Color]
    numbers: dict[str, int]
    """Class of the export -> class index or IGNORE."""
    background: int
    """Class index or IGNORE of pixels without an object."""

    def number(self, name: str | None) -> int:
        """Class index or IGNORE; None is IGNORE."""
        return IGNORE if name is None else self.numbers[name]


def choose_classes(
    export: Export, wanted: Sequence[str] = (), mapping: Mapping[str, str] | None = None, background: str | None = None
) -> ClassTable:
    """Number the classes of an export.

    Args:
        export: what was read.
        wanted: the classes of the dataset, in order; empty = all that the export names, in its order.
        mapping: old name -> new name, "ignore" or "background"; the old name "*" stands for all others.
        background: the class of pixels without an object, or "ignore"; None = as the format has it.

    Raises:
        UserError: names that do not exist, or classes that `wanted` and `mapping` do not speak of.
    """
    rules: dict[str, str] = {}
    for old, new in (mapping or {}).items():
        named = [old] if old in (REST, *export.classes) else [it for it in export.classes if it.strip() == old.strip()]
        if not named:
            raise UserError(f"--map {old}=...: the export has no class {old!r}{did_you_mean(old, export.classes)}")
        rules |= dict.fromkeys(named, new)
    ground = _background(export, wanted, rules, background)
    targets: dict[str, str] = {}
    homeless = []
    for name in export.classes:
        if name in rules:
            target = rules[name]
        elif name in wanted or (not wanted and REST not in rules) or name == ground:
            target = name
        elif REST in rules:
            target = rules[REST]
        else:
            homeless.append(name)
            continue
        if target == BACKGROUND and BACKGROUND not in (*wanted, *export.classes):
            target = ground or (IGNORED if background == IGNORED else BACKGROUND)
        targets[name] = target
    if homeless:
        raise UserError(
            f"--classes does not speak of {some(homeless)}; add them, or say where they go: --map "
            f"{homeless[0]!r}=NAME, or --map '*=background' or '*=ignore' for all others"
        )
    classes = list(wanted) or unique([name for name in targets.values() if name != IGNORED])
    if strange := [name for name in targets.values() if name not in (*classes, IGNORED, ground)]:
        raise UserError(f"--map to {strange[0]!r}, which --classes does not name; add it there")
    if ground is not None and ground not in classes:
        classes.insert(0, ground)
    if any(not name.strip() for name in classes):
        raise UserError(f"{export.title}: a class has no name; --map =NAME names it, or --map =ignore")
    if not classes:
        raise UserError(f"{export.title}: no class is left; every one is ignored")
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f"{len(classes)} classes; a mask holds at most {MOST_CLASSES}. Join some with --map OLD=NEW, or choose "
            "with --classes and --map '*=background'"
        )
    index = {name: number for number, name in enumerate(classes)} | {IGNORED: IGNORE}
    numbers = {name: index[target] for name, target in targets.items()}
    return ClassTable(classes, _palette(export, classes, targets), numbers, IGNORE if ground is None else index[ground])


def _background(export: Export, wanted: Sequence[str], rules: Mapping[str, str], background: str | None) -> str | None:
    """The name of the background class; None where such pixels are ignored."""
    if background is not None:
        if export.background is None and background != IGNORED and background not in export.classes:
            raise UserError(f"--background {background}: the masks of {export.title} give a class to every pixel")
        return None if background == IGNORED else background
    if export.background is None:
        return None
    known = [*wanted, *(rules.get(name, name) for name in export.classes)]
    return next((name for name in known if name.strip("_ ").lower() == BACKGROUND), export.background)


def _palette(export: Export, classes: Sequence[str], targets: Mapping[str, str]) -> list[Color]:
    """The export's own colors, where it has one for each class and no two are equal; else the usual ones."""
    own: dict[str, Color] = {}
    for name, color in export.colors.items():
        own.setdefault(targets.get(name, name), color)
    colors = [own.get(name, (0, 0, 0) if name.strip("_ ").lower() == BACKGROUND else None) for name in classes]
    given = [color for color in colors if color is not None]
    return given if len(given) == len(classes) == len(set(given)) else default_palette(len(classes))


def alike(names: Sequence[str]) -> list[tuple[str, str]]:
    """Names that differ from an earlier one in case or spaces alone, each with that one."""
    first: dict[str, str] = {}
    pairs = ((name, first.setdefault(" ".join(name.casefold().split()), name)) for name in names)
    return [(name, earlier) for name, earlier in pairs if name != earlier]


def parse_map(texts: Sequence[str]) -> dict[str, str]:
    """["old=new", ...] of the command line; the last "=" divides. UserError for anything else, or an old name twice."""
    mapping: dict[str, str] = {}
    for text in texts:
        old, equals, new = text.rpartition("=")
        if not equals or not new.strip():
            raise UserError(f"--map {text}: write OLD=NEW, e.g. --map lorry=truck")
        if old in mapping:
            raise UserError(f"--map {old}: is given twice")
        mapping[old] = new.strip()
    return mapping
