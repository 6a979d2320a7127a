"""What `semseg export` and `semseg verify` say of a verified file."""

from pathlib import Path
from typing import Any

SCORES = {"miou": "mIoU", "boundary_iou": "boundary IoU", "calibration_error": "calibration error"}


def print_entry(exported_file: Path, entry: dict[str, Any]) -> None:
    """A table and the verdict, on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in ("size", "batch", "same class", "confidence off by"):
        table.add_column(heading, justify="right")
    for row in entry["by_size"]:
        size, batch = f"{row['width']}x{row['height']}", str(row["batch"])
        if "error" in row:
            table.add_row(size, batch, "does not run", "")
        else:
            table.add_row(size, batch, f"{row['agreement']:.4%}", f"{row['confidence_difference']} of 255")
    console = Console(stderr=True)
    console.print(f"{exported_file} against the trained network, {entry['photos']} photos:")
    console.print(table)
    counts = ", ".join(f"{count} {precision}" for precision, count in entry["layers"].items())
    console.print(f"layers: {counts}", highlight=False)
    for name in entry["float_layers"]:
        console.print(f"  {name} stays fp32", highlight=False)
    if "decoding" in entry:
        decoding = entry["decoding"]
        differing = f"{decoding['ties']} ties and {decoding['wrong']} other pixels of {decoding['pixels']} differ"
        console.print(f"our engines against the file itself: {differing}", highlight=False)
    for key, title in SCORES.items():
        if key in entry:
            scores = entry[key]
            console.print(f"{title}: {scores['trained']:.2%} trained, {scores['exported']:.2%} exported")
    if "miou" not in entry:
        console.print("mIoU not measured: generated photos have no labels; add --data DATASET")
    if "latency_ms" in entry:
        latency = entry["latency_ms"]
        size = f"{latency['width']}x{latency['height']}"
        console.print(
            f"{latency['median']:.1f} ms per photo of {size}, {latency['threads']} threads, {entry['device']}"
        )
    console.print(f"verdict: {entry['verdict']}")


def rejection(exported_file: Path, entry: dict[str, Any]) -> str:
    """The line for a rejected file."""
    first, *others = entry["reasons"]
    more = f" (and {len(others)} more in manifest.json)" if others else ""
    return f"semseg: {exported_file}: rejected: {first}{more}"
