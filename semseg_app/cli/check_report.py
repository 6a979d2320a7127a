"""How the doctor's report looks on a terminal."""

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from semseg_app.data.check import CheckReport, SplitReport
from semseg_app.data.findings import TITLES, Finding

MOST_FILES = 8
"""Most findings of one kind that are printed; --json has them all."""

MOST_CLASSES = 40
"""With more classes, the table shows the rarest."""


def print_report(report: CheckReport, seconds: float) -> None:
    """Tables of splits and classes, then findings and notes, then one line to remember."""
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    info = report.data.info
    console.print(Text.assemble((info.name, "bold"), f"  {len(info.classes)} classes  {report.data.root}"))
    console.print()
    console.print(_split_table(report.splits))
    console.print()
    labeled = {name: split for name, split in report.splits.items() if split.masks_counted}
    if labeled:
        console.print(_class_table(report, labeled))
        console.print()
    if report.lists:
        console.print(Text.assemble(("lists  ", "dim"), "  ".join(_list_names(report.lists))), soft_wrap=True)
        console.print()
    _print_findings(console, report.findings, "red")
    _print_findings(console, report.notes, "yellow")
    console.print(_summary(report, seconds))


def _list_names(lists: dict[str, int]) -> list[str]:
    """ "1_8 46+321" for a labeled list and its unlabeled rest, "name 12" for any other."""
    shown = []
    for name, count in lists.items():
        base = name.removesuffix("-labeled").removesuffix("-unlabeled")
        pair = [lists.get(f"{base}-{kind}") for kind in ("labeled", "unlabeled")]
        if name == base or None in pair:
            shown.append(f"{name} {count:,}")
        elif name.endswith("-labeled"):
            shown.append(f"{base} {pair[0]:,}+{pair[1]:,}")
    return shown


def _split_table(splits: dict[str, SplitReport]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("split", "photos", "masks", "sizes", "mean RGB", "std RGB"):
        table.add_column(name, justify="right" if name in ("photos", "masks") else "left", no_wrap=name != "sizes")
    for name, split in splits.items():
        sizes = [
            f"{width}x{height}" + (f" ({count})" if len(split.sizes) > 1 else "")
            for (width, height), count in split.sizes.most_common(3)
        ]
        if len(split.sizes) > 3:
            sizes.append(f"{len(split.sizes) - 3} more")
        mean, std = (" ".join(f"{value:.3f}" for value in triple) for triple in (split.mean, split.std))
        table.add_row(name, f"{split.images:,}", f"{split.labeled:,}", ", ".join(sizes), mean, std)
    return table


def _class_table(report: CheckReport, splits: dict[str, SplitReport]) -> Table:
    info = report.data.info
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("class", no_wrap=True)
    for name in splits:
        table.add_column(f"{name} pixels", justify="right", no_wrap=True)
        table.add_column("photos", justify="right", no_wrap=True)
    totals = {name: max(int(split.class_pixels.sum()) + split.ignored_pixels, 1) for name, split in splits.items()}
    rows = list(range(len(info.classes)))
    if len(rows) > MOST_CLASSES:
        first = next(iter(splits.values()))
        rows = sorted(sorted(rows, key=lambda index: int(first.class_pixels[index]))[:MOST_CLASSES])
        table.caption = f"the {MOST_CLASSES} rarest of {len(info.classes)} classes; --json has all"
        table.caption_justify = "left"
    for index in rows:
        red, green, blue = info.palette[index]
        cells = [Text.assemble(("■ ", f"rgb({red},{green},{blue})"), info.classes[index])]
        for name, split in splits.items():
            pixels, images = int(split.class_pixels[index]), int(split.class_images[index])
            cells += [
                Text(f"{pixels / totals[name]:.2%}" if pixels else "absent", "" if pixels else "bold red"),
                Text(f"{images:,}"),
            ]
        table.add_row(*cells)
    ignored = [cell for name, split in splits.items() for cell in (f"{split.ignored_pixels / totals[name]:.2%}", "")]
    table.add_row(Text("  ignored", "dim"), *(Text(cell, "dim") for cell in ignored))
    return table


def _print_findings(console: Console, findings: list[Finding], color: str) -> None:
    kinds = list(dict.fromkeys(finding.kind for finding in findings))
    for kind in sorted(kinds, key=list(TITLES).index):
        same = [finding for finding in findings if finding.kind == kind]
        console.print(Text.assemble(("● ", color), (TITLES[kind], "bold"), f"  {len(same):,}"))
        for finding in same[:MOST_FILES]:
            console.print(Text.assemble("    ", (finding.file, "cyan"), f"  {finding.message}"), soft_wrap=True)
        if len(same) > MOST_FILES:
            console.print(Text(f"    and {len(same) - MOST_FILES:,} more (--json lists all)", "dim"))
    if findings:
        console.print()


def _summary(report: CheckReport, seconds: float) -> Text:
    read = f"{report.pairs:,} photos read in {seconds:.1f} s"
    notes = f", {_count(len(report.notes), 'note')}" if report.notes else ""
    if not report.findings:
        return Text.assemble(("clean", "bold green"), f"{notes}: {read}")
    hint = "; --fix-map FILE writes a dataset.yaml that maps the labels" if report.proposal else ""
    return Text.assemble((_count(len(report.findings), "finding"), "bold red"), f"{notes}: {read}{hint}")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
