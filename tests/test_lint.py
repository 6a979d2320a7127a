"""`make lint`: its type check sees every Python file of every room."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("semseg_app", "training", "export", "serve")
PLANTED = "def planted() -> str:\n    return 1\n"


def type_check(project: Path) -> subprocess.CompletedProcess[str]:
    """What `make lint` runs for types, in another folder, with this environment's mypy."""
    listed = ["make", "--dry-run", "--always-make", "lint", f"VENV={Path(sys.executable).parent.parent}"]
    lines = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    (command,) = [line for line in lines if re.search(r"/mypy( |$)", line)]
    return subprocess.run(command.split(), cwd=project, capture_output=True, text=True, check=False)


@pytest.fixture
def planted(tmp_path: Path) -> set[str]:
    """A copy of the project in which every module is nothing but a type error; -> the modules' paths."""
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    modules = set()
    for room in ROOMS:
        for folder, folders, files in os.walk(ROOT / room):
            copy = tmp_path / Path(folder).relative_to(ROOT)
            copy.mkdir(exist_ok=True)
            for link in (Path(folder, name) for name in folders):
                if link.is_symlink():
                    (copy / link.name).symlink_to(link.readlink())
            for file in (copy / name for name in files if name.endswith(".py")):
                file.write_text(PLANTED)
                modules.add(file.relative_to(tmp_path).as_posix())
    return modules


def test_an_error_in_any_file_of_any_room_fails(planted, tmp_path):
    checked = type_check(tmp_path)
    assert checked.returncode == 1, checked.stderr
    found = {line.split(":")[0] for line in checked.stdout.splitlines() if "[return-value]" in line}
    expected = {path if path.startswith("semseg_app/") else f"semseg_app/{path}" for path in planted}
    assert found == expected


def test_without_errors_the_same_copy_passes(planted, tmp_path):
    for path in planted:
        (tmp_path / path).write_text("def sound() -> str:\n    return ''\n")
    checked = type_check(tmp_path)
    assert checked.returncode == 0, checked.stdout
