"""What an installation holds."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("training", "export", "serve")


def setuptools_table() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_is_listed():
    packages = set()
    for top in ("semseg_app", *ROOMS):
        for init in (ROOT / top).rglob("__init__.py"):
            name = ".".join(init.parent.relative_to(ROOT).parts)
            packages.add(name if top == "semseg_app" else f"semseg_app.{name}")
    # Folders of data alone are listed too: setuptools warns about every one that is not.
    folders_of_data = {name for name in setuptools_table()["package-data"] if name not in packages}
    assert packages | folders_of_data == set(setuptools_table()["packages"])


def test_every_data_file_is_listed():
    """Files beside the code that are not Python must be named as package data, or a wheel lacks them."""
    directories = setuptools_table()["package-dir"]
    covered = set()
    for package, patterns in setuptools_table()["package-data"].items():
        room = next((room for room in directories if f"{package}.".startswith(f"{room}.")), "")
        folder = ROOT / (directories.get(room, "") + package.removeprefix(room).replace(".", "/"))
        for pattern in patterns:
            matches = list(folder.glob(pattern))
            assert matches, f"{package}: nothing matches {pattern}"
            covered |= set(matches)
    beside = {
        path
        for top in ("semseg_app", *ROOMS)
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert beside == covered


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return names | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "semseg_app" and parts[1] in ROOMS else None


@pytest.mark.parametrize("top", ["semseg_app", *ROOMS])
def test_rooms_do_not_import_each_other(top):
    """And the foundation imports no room, but for the verbs of the command line."""
    for path in (ROOT / top).rglob("*.py"):
        if path.is_relative_to(ROOT / "semseg_app" / "cli"):
            continue
        rooms = {room for module in imports(path) if (room := room_of(module))}
        assert rooms <= {top}, f"{path} imports {rooms}"


BLOCKED = """
import sys
for name in ("torch", "torchvision", "timm", "accelerate", "segmentation_models_pytorch", "matplotlib"):
    sys.modules[name] = None
"""


@pytest.mark.parametrize(
    "module",
    [
        "semseg_app.cli.main",
        "semseg_app.artifact",
        "semseg_app.data.layouts",
        "semseg_app.data.check",
        "semseg_app.synthetic",
        "semseg_app.inference.evaluate",
        "semseg_app.benchmark.report",
        "semseg_app.doctor",
        "semseg_app.hub.model",
        "semseg_app.hub.push",
        "semseg_app.hub.space",
        "semseg_app.inference.engines.onnxruntime",
        "semseg_app.serve.server",
        "semseg_app.serve.demo.page",
    ],
)
def test_serving_needs_no_torch(module):
    subprocess.run([sys.executable, "-c", f"{BLOCKED}import {module}"], check=True)
