"""The Dockerfile, as far as it can be judged where there is no Docker: what it names exists, and what it runs works."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.color_engine import ColorEngine
from support.tiny_models import make_graph as make_graph

from semseg_app.serve.app import create_app
from semseg_app.serve.config import ServeConfig

ROOT = Path(__file__).parents[2]
Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """(instruction, the rest), comments dropped and continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.split("\n") if line)
    ]


def arguments() -> dict[str, str]:
    """ARG and its default."""
    return dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG")


def exec_form(word: str) -> list[str]:
    """The last ENTRYPOINT, CMD or HEALTHCHECK as its list."""
    rest = [rest for found, rest in instructions() if found == word][-1]
    return list(json.loads(rest[rest.index("[") :]))


def copied() -> list[str]:
    """What is taken from the project."""
    rests = [rest.split() for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    return [source for rest in rests for source in rest[:-1]]


def sent_to_docker(path: str) -> bool:
    """Whether .dockerignore lets it through: the last line that matches decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if line and not line.startswith("#"):
            parts = path.split("/") if "**/" in line else [path.split("/")[0]]
            if any(fnmatch.fnmatch(part, pattern) for part in parts):
                sent = line.startswith("!")
    return sent


def test_what_it_copies_exists_and_is_sent_and_nothing_else_is():
    assert copied()
    for source in copied():
        assert (ROOT / source).exists(), source
        assert sent_to_docker(source), source
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {path.split("/")[0] for path in tracked if sent_to_docker(path)} == set(copied())
    for path in (".git/config", ".venv/bin/python", "runs/street/best/model.safetensors", "serve/__pycache__/api.pyc"):
        assert not sent_to_docker(path), path


def test_it_holds_every_package_that_is_installed():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package in setuptools["packages"]:
        folder = package.replace(".", "/").replace("semseg_app/", "", 1)
        top = folder.split("/")[0] if folder.split("/")[0] in setuptools["package-dir"] else "semseg_app"
        assert top.split(".")[-1] in copied(), package


def installation(index: str, extra: str, folder: Path) -> list[str]:
    """The pip commands of the build, without running them; what else it runs is run in `folder`."""
    (command,) = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    shutil.copy(ROOT / "constraints.txt", folder)
    shown = command.replace("/opt/semseg/bin/python -m pip", "echo pip")
    environment = os.environ | {"INDEX": index, "EXTRA": extra}
    done = subprocess.run(["sh", "-c", shown], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_every_package_of_the_image_is_checked_by_its_hash(tmp_path):
    packages, project = installation("", "cpu", tmp_path)
    assert packages.split()[-3:] == ["--require-hashes", "--requirement", "requirements-docker.txt"]
    assert project.split()[-3:] == ["--no-deps", "--no-build-isolation", "."]
    assert not re.findall(r"^(torch|timm|accelerate)==", (ROOT / "requirements-docker.txt").read_text(), re.MULTILINE)


def test_another_index_keeps_the_versions(tmp_path):
    """NVIDIA's, for TensorRT: its files are in no list of hashes."""
    (packages,) = installation("https://pypi.nvidia.com", "gpu", tmp_path)
    assert "--require-hashes" not in packages
    assert packages.endswith("--constraint versions.txt --extra-index-url https://pypi.nvidia.com .[serve,gpu]")
    kept = [line for line in (tmp_path / "versions.txt").read_text().splitlines() if not line.startswith("#")]
    locked = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert kept == [line.removesuffix(" \\") for line in locked if not line.startswith(" ")]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert not [line for line in (*extras["serve"], *extras["gpu"]) if re.match(r"(torch|timm|semseg-app)\b", line)]


def test_base_images_are_named_by_digest():
    assert re.fullmatch(r"\S+:\S+@sha256:[0-9a-f]{64}", arguments()["BASE"])
    shown = re.findall(r"--build-arg BASE=(\S+)", (ROOT / "Dockerfile").read_text())
    assert shown
    assert all(re.fullmatch(r"\S+:\S+@sha256:[0-9a-f]{64}", base) for base in shown)


def test_two_stages_of_one_base_and_an_ordinary_user():
    words = [word for word, _ in instructions()]
    bases = [rest for word, rest in instructions() if word == "FROM"]
    assert [base.split()[0] for base in bases] == ["${BASE}"] * 2  # the environment's Python must be where it was
    last = len(words) - words[::-1].index("FROM") - 1
    user = [rest for word, rest in instructions()[last:] if word == "USER"]
    assert user == ["semseg"]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert any("useradd" in rest and " semseg" in rest for word, rest in instructions()[last:] if word == "RUN")
    from_build = [rest for word, rest in instructions()[last:] if word == "COPY"]
    assert from_build == ["--from=build /opt/semseg /opt/semseg"]
    assert ("STOPSIGNAL", "SIGTERM") in instructions()


def test_the_shell_lines_are_a_shell_s():
    for word, rest in instructions():
        if word == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)


def test_the_entry_point_is_what_the_program_takes():
    """All but the model is right: it says that the model is missing, not that an option is."""
    entry, command = exec_form("ENTRYPOINT"), exec_form("CMD")
    assert (entry[0], command) == ("semseg", ["/model"])
    program = Path(sys.executable).with_name(entry[0])
    free = [part if part != "7860" else "0" for part in entry[1:]]
    done = subprocess.run([program, *free, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "/model: no such model folder or .onnx file" in done.stderr


def test_the_health_check_is_right_about_a_server_and_about_none(running):
    code = exec_form("HEALTHCHECK")
    exposed = next(rest for word, rest in instructions() if word == "EXPOSE")
    assert exposed == "7860" == exec_form("ENTRYPOINT")[-1]
    assert code[:2] == ["python3", "-c"]
    with running(create_app(ColorEngine(), ServeConfig(demo=False))) as url:
        healthy = code[2].replace("127.0.0.1:7860", url.removeprefix("http://"))
        assert healthy != code[2]
        # Docker hands the proxies of its own settings to containers.
        proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9") | {"no_proxy": ""}
        subprocess.run([sys.executable, "-c", healthy], env=os.environ | proxies, check=True)
        unready = healthy.replace("/health/live", "/health/none")
        assert subprocess.run([sys.executable, "-c", unready], check=False).returncode == 1
    gone = subprocess.run([sys.executable, "-c", healthy], capture_output=True, check=False)
    assert gone.returncode == 1


def test_the_hub_s_cache_lies_on_the_volume():
    environment = dict(
        pair.split("=", 1) for word, rest in instructions() if word == "ENV" for pair in shlex.split(rest)
    )
    volume = next(rest for word, rest in instructions() if word == "VOLUME")
    assert environment["HF_HOME"] == volume
    assert any(f"chown semseg {volume}" in rest for word, rest in instructions() if word == "RUN")
    assert environment["PATH"].startswith("/opt/semseg/bin:")


@pytest.mark.slow
def test_what_is_copied_installs_and_serves(tmp_path, make_graph):
    """The build's own commands in a folder that holds what the build would: a venv, the install, the program."""
    source, prefix = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    for word, rest in instructions():
        if word == "RUN" and "/opt/semseg" in rest:
            command = rest.replace("/opt/semseg", str(prefix)).replace("python3 -m", f"{sys.executable} -m")
            subprocess.run(["sh", "-c", command], cwd=source, env=os.environ | arguments(), check=True)
    blocked = subprocess.run([prefix / "bin/python", "-c", "import torch"], capture_output=True, check=False)
    assert blocked.returncode == 1
    command = [prefix / "bin/semseg", "serve", "--port", "0", make_graph()]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = next(line for line in server.stderr if "API: " in line).split("API: ")[1].split("/docs")[0]
            check = exec_form("HEALTHCHECK")[2].replace("127.0.0.1:7860", url.removeprefix("http://"))
            subprocess.run([sys.executable, "-c", check], check=True)
        finally:
            server.kill()
