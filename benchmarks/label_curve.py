"""How much labels are worth: one recipe, one length, more and more labeled images. Prints a table and draws the curve.

python benchmarks/label_curve.py DATA [--recipe streets-teacher] [--lists 8-labeled,64-labeled,train] [--out FOLDER]
"""

import argparse
import json
from pathlib import Path

from semseg_app.training.loop import train
from semseg_app.training.recipe import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="streets-teacher")
    parser.add_argument("--lists", default="8-labeled,32-labeled,train")
    parser.add_argument("--out", type=Path, default=Path("runs/label-curve"))
    parser.add_argument("overrides", nargs="*", help="key=value, e.g. seed=1")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.lists.split(","):
        output = arguments.out / name
        chosen = [f"data.root={arguments.data}", f"data.labeled={name}", f"output={output}", *arguments.overrides]
        report = output / "report.json"
        done = json.loads(report.read_text()) if report.exists() else train(load_recipe(arguments.recipe, chosen))
        rows.append((done["data"]["labeled"]["images"], done["last"]["student"]["miou"], done["seconds"]))
    print("| labeled images | val mIoU | seconds |\n|---|---|---|")
    for images, miou, seconds in rows:
        print(f"| {images} | {100 * miou:.1f} | {seconds:.0f} |")
    draw(rows, arguments.out / "label_curve.png")


def draw(rows: list[tuple[int, float, float]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([images for images, _, _ in rows], [100 * miou for _, miou, _ in rows], marker="o", color="#0f766e")
    axes.set_xscale("log", base=2)
    axes.set_xticks([images for images, _, _ in rows], [str(images) for images, _, _ in rows])
    axes.set_xlabel("labeled images")
    axes.set_ylabel("val mIoU, %")
    axes.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
