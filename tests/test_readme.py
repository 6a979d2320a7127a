"""The README's blocks, pasted one after the other into a shell in an empty folder, with the package from a wheel.

The numbers of photos, pixels and steps are reduced, so that it takes a minute; the commands are the README's.
"""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SMALLER = (
    ("--train 46 --val 8 --unlabeled 321", "--train 12 --val 2 --unlabeled 8 --size 64x96"),
    ("--minutes 20", "--minutes 0.1"),
    ("--minutes 10", "--minutes 0.1"),
    ("serve runs/mine-student/best", "serve runs/mine-student/best --port 7864 --threads 1"),
    (":7860/v1", ":7864/v1"),
)
BUILD = 'from setuptools import build_meta; build_meta.build_wheel("wheel")'


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the project."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for top in ("semseg_app", "training", "export", "serve"):
        shutil.copytree(ROOT / top, source / top, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD], cwd=source, capture_output=True, check=True)
    (built,) = (source / "wheel").glob("*.whl")
    return built


class Shell:
    """One bash, as a reader has it: what a block starts is there in the next."""

    def __init__(self, folder: Path, site: Path):
        programs = site.parent / "programs"
        programs.mkdir()
        for name, arguments in (("semseg", "-m semseg_app.cli"), ("python", "")):
            (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
            (programs / name).chmod(0o755)
        self.folder = folder
        self.environment = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(site),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, command: str) -> str:
        """stdout and stderr of a command that must succeed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        # Two steps teach nothing, so the gate may refuse the int8 graph: then it is there, and served with --force.
        refused = command.startswith("semseg export") and ": rejected: " in done.stderr
        assert done.returncode == int(refused), f"{command}\n{done.stdout}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def serve(self, command: str) -> subprocess.Popen[str]:
        """The server of a command, ready."""
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command} --force"], cwd=self.folder, env=self.environment, text=True
        )
        for _ in range(400):
            try:
                with urllib.request.urlopen("http://127.0.0.1:7864/health/ready", timeout=5):
                    return server
            except OSError:
                assert server.poll() is None
                time.sleep(0.2)
        raise AssertionError("the server was not ready in 80 s")


@pytest.mark.slow
def test_the_blocks_run_in_an_empty_folder_from_a_wheel(wheel, tmp_path):
    site, folder = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    folder.mkdir()
    shell = Shell(folder, site)
    origin = shell.run('python -c "import semseg_app; print(semseg_app.__file__)"')
    assert origin.startswith(str(site))
    server = None
    try:
        for language, block in BLOCKS:
            for large, small in SMALLER:
                block = block.replace(large, small)
            if language == "python":
                block = block.replace('precision="int8"', 'precision="int8", force=True')
                (folder / "block.py").write_text(block)
                said = shell.run("python block.py")
                assert re.search(r"Segmentation\(photo.jpg, 96x64: .* %", said)
                continue
            for command in block.replace("\\\n", " ").splitlines():
                if command.startswith("semseg serve"):
                    server = shell.serve(command)
                else:
                    shell.run(command)
    finally:
        if server:
            server.terminate()
            server.wait(30)
    for made in ("mask.png", "overlay.jpg", "mine/dataset.yaml", "mine/splits/val.txt", "runs/mine-student/best/onnx"):
        assert (folder / made).exists(), made
    assert len(list((folder / "mine" / "unlabeled").iterdir())) == 8


def test_the_walk_has_at_most_seven_commands_and_no_file_written_by_hand():
    walk = [block for language, block in BLOCKS[1:4] if language == "sh"]
    commands = [line for block in walk for line in block.replace("\\\n", " ").splitlines()]
    verbs = [line for line in commands if line.startswith("semseg ")]
    assert len(verbs) <= 7
    assert verbs[0].startswith("semseg data import my-export")
    assert verbs[-1].startswith("semseg serve")
    assert not re.search(r"cat >|<<|\.yaml", "".join(walk))


def test_the_commands_of_the_walk_are_understood():
    """Quick, beside the slow run: verbs, options and values; and the folders that one command hands to the next."""
    from typer.main import get_command

    from semseg_app.cli.main import app

    text = "".join(block for language, block in BLOCKS if language == "sh")
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith("semseg ")]
    chosen = []
    for words in lines:
        command: Any = get_command(app)
        while words[0] in getattr(command, "commands", {}):
            command = command.commands[words[0]]
            words = words[1:]
        chosen.append((command.name, command.make_context(command.name, words).params))
    (_, teacher), (_, student) = [row for row in chosen if row[0] == "train"]
    assert (teacher["data"], teacher["teacher"]) == (student["data"], None)
    assert student["teacher"] == f"runs/{teacher['data']}/best"
    made = f"runs/{teacher['data']}-student/best"
    models = [params["model"] for _, params in chosen if params.get("model")]
    assert models == [made, [made]]  # of export and of serve


def test_the_install_lines_name_this_wheel_and_its_extras(wheel):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    clone, from_wheel = re.findall(r"^pip install '(.*)\[(.*)\]'$", README, re.MULTILINE)
    assert (clone[0], from_wheel[0]) == (".", wheel.name)
    assert set(clone[1].split(",")) == set(from_wheel[1].split(",")) <= set(extras)
