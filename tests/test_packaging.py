"""What an installation holds."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """A list of locked packages: name -> version and hashes."""
    packages: dict[str, tuple[str, list[str]]] = {}
    for line in (ROOT / name).read_text().splitlines():
        if match := re.fullmatch(r"([a-z0-9-]+)==(\S+)( ; .*)? \\", line):
            hashes: list[str] = []
            packages[match[1]] = match[2], hashes
        elif match := re.fullmatch(r" {4}--hash=sha256:([0-9a-f]{64})( \\)?", line):
            hashes.append(match[1])
        else:
            assert line.startswith("#"), line
    return packages


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("constraints.txt", ("train", "export", "serve", "cpu", "large", "dev")),
        ("requirements-docker.txt", ("serve", "cpu")),
    ],
)
def test_every_requirement_is_locked_with_hashes_and_no_download_address(name, extras):
    """`make` and the Dockerfile install these lists and then the project alone, without build isolation."""
    packages = locked(name)
    assert all(hashes for _, hashes in packages.values())
    assert "://" not in (ROOT / name).read_text()
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = [*table["build-system"]["requires"], *table["project"]["dependencies"]]
    lines += [line for extra in extras for line in table["project"]["optional-dependencies"][extra]]
    for requirement in map(Requirement, lines):
        if requirement.name != "semseg-app":
            version, _ = packages[canonicalize_name(requirement.name)]
            assert version in requirement.specifier, requirement


def test_the_image_has_the_versions_that_are_tested():
    tested = locked("constraints.txt")
    assert {name: tested.get(name) for name in locked("requirements-docker.txt")} == locked("requirements-docker.txt")


BUILD = """
from setuptools import build_meta

build_meta.build_wheel("built/wheel")
build_meta.build_sdist("built/source")
build_meta.build_editable("built/editable")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel, sdist and editable wheel of a copy of the project."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for top in ("semseg_app", *ROOMS):
        shutil.copytree(ROOT / top, source / top, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=source, capture_output=True, text=True, check=True)
    noise = [line for line in (done.stdout + done.stderr).splitlines() if re.search("warning|ambiguous", line, re.I)]
    assert [line for line in noise if "byte-compiling is disabled" not in line] == []
    return source / "built"


def installed_files() -> list[str]:
    """Where each file of the rooms is installed, links not followed."""
    files = []
    for top in ("semseg_app", *ROOMS):
        for path in (ROOT / top).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                inside = path.relative_to(ROOT).as_posix()
                files.append(inside if top == "semseg_app" else f"semseg_app/{inside}")
    return sorted(files)


def test_a_wheel_holds_every_file_once(built):
    (wheel,) = built.glob("wheel/*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted(name for name in names if ".dist-info/" not in name) == installed_files()


def test_a_source_archive_holds_every_file_once_and_no_links(built):
    (archive,) = built.glob("source/*.tar.gz")
    with tarfile.open(archive) as files:
        members = files.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    inside = [member.name.split("/", 1)[1] for member in members if member.isfile()]
    rooms = [name for name in inside if name.split("/")[0] in ("semseg_app", *ROOMS)]
    assert (
        sorted(name if name.startswith("semseg_app/") else f"semseg_app/{name}" for name in rooms) == installed_files()
    )


def test_an_editable_install_maps_one_package(built):
    """The rooms are found through the links; a second mapping would import their modules twice."""
    (wheel,) = built.glob("editable/*.whl")
    with zipfile.ZipFile(wheel) as files:
        (finder,) = [name for name in files.namelist() if name.endswith("_finder.py")]
        mapping = re.search(r"^MAPPING[^=]*= (.*)$", files.read(finder).decode(), re.MULTILINE)
    assert list(ast.literal_eval(mapping[1])) == ["semseg_app"]


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
        "semseg_app.inference.model",
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
