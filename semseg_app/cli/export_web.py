"""`semseg export --to web`: the page that segments in the browser, made from a verified graph."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

from semseg_app.errors import UserError


class WebOptions(NamedTuple):
    """The checked options, and what the page is made of."""

    out: Path
    runtime: dict[str, bytes]
    examples: list[Path]

    @classmethod
    def check(cls, folder: Path, out: Path | None, runtime: Path | None, examples: Path | None) -> "WebOptions":
        """Find everything that could be missing before the graph is exported, which takes minutes."""
        from semseg_app.export.web import check_out
        from semseg_app.export.web.runtime import runtime_files

        target = (out or folder / "web").resolve()
        check_out(target)
        return cls(target, runtime_files(runtime), _photos(examples) if examples else [])


def refuse_web_options(to: str, out: Path | None, runtime: Path | None, examples: Path | None) -> None:
    """UserError for an option of --to web beside another --to."""
    for option, value in (("--out", out), ("--runtime", runtime), ("--examples", examples)):
        if value is not None and to != "web":
            raise UserError(f"{option} {value}: only for --to web; --to {to} writes into the model folder")


def make_web(folder: Path, precision: str, options: WebOptions) -> tuple[Path, dict[str, Any]]:
    """Write the page. Returns its folder and what its model.json says."""
    from semseg_app.export.web import export_web
    from semseg_app.inference.engines.base import GRAPHS

    graph = folder / GRAPHS[precision]
    described = export_web(folder, graph, precision, options.runtime, options.out, options.examples)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file()) / 1e6
    print(f"{options.out}: {size:.1f} MB; python -m http.server --directory {options.out}", file=sys.stderr)
    return options.out, {"verdict": "passed", **described}


def _photos(folder: Path) -> list[Path]:
    from semseg_app.data.dataset import IMAGE_SUFFIXES

    if not folder.is_dir():
        raise UserError(f"--examples {folder}: not a folder of photos")
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not photos:
        raise UserError(f"--examples {folder}: holds no {', '.join(sorted(IMAGE_SUFFIXES))}")
    return photos
