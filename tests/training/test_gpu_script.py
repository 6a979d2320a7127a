"""benchmarks/gpu.sh: what it packs, that a stop or a failure loses nothing, and all of it in its smallest form."""

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

from semseg_app.models.packaged_weights import package_for
from semseg_app.synthetic import generate
from semseg_app.training.compare import load_comparison, run_name

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "benchmarks" / "gpu.sh"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pack = script("gpu_pack")
parts = script("gpu_parts")


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names: Iterable[str]) -> set[str]:
    """The packages and all that they need, by the metadata of what is installed here."""
    known: set[str] = set()
    queue = [normalized(name) for name in names]
    while queue:
        name = queue.pop()
        if name in known:
            continue
        known.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another platform
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                queue.append(normalized(need.name))
    return known


def test_what_training_needs_is_provided_or_carried() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text).name for text in project["dependencies"] + project["optional-dependencies"]["train"]]
    wanted.remove("matplotlib")  # draws the figures of reports and `semseg plot`, and nothing here
    missing = closure([*wanted, "pytest", "pytest-timeout"]) - closure(pack.PROVIDED) - set(pack.CARRIED)
    assert not missing


def test_the_weights_of_the_rows_are_carried() -> None:
    comparison = load_comparison(PROJECT / "benchmarks" / "comparisons" / "study.yaml")
    rows = {row for row, _ in parts.STUDY} - {"int8"}
    encoders = {comparison.rows[row].get("model", comparison.set["model"])["encoder"] for row in rows}
    assert {package_for(encoder).distribution.split("==")[0] for encoder in encoders} == set(pack.WEIGHTS)


def test_packed_wheels_are_the_locked_ones() -> None:
    lines = pack.locked(PROJECT / "constraints.txt", (*pack.CARRIED, *pack.WEIGHTS)).replace("\\\n", " ").splitlines()
    locked = {}
    for line in lines:
        text, *hashes = line.split(" --hash=")
        requirement = Requirement(text)
        assert requirement.marker is None or requirement.marker.evaluate()
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", word.strip()) for word in hashes)
        locked[requirement.name] = str(requirement.specifier).removeprefix("==")
    assert locked == {name: importlib.metadata.version(name) for name in (*pack.CARRIED, *pack.WEIGHTS)}
    with pytest.raises(SystemExit, match=r"constraints.txt: does not lock nosuch"):
        pack.locked(PROJECT / "constraints.txt", ("pytest", "nosuch"))


def test_what_exceeds_the_limit_goes_on_a_second_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, second = tmp_path / "pack", tmp_path / "pack-2"
    (folder / "wheels").mkdir(parents=True)
    (folder / "camvid").mkdir()
    (folder / "camvid" / "photo.jpg").write_bytes(bytes(1 << 20))
    for size in (1, 2, 4):
        (folder / "wheels" / f"w{size}.whl").write_bytes(bytes(size << 20))
    project = pack.project_size(folder)
    assert 2 < project < 20
    pack.split(folder, second, project + 4.5)
    assert [path.name for path in sorted(folder.glob("wheels/*"))] == ["w1.whl", "w2.whl"]
    assert [path.name for path in second.glob("wheels/*")] == ["w4.whl"]
    said = capsys.readouterr().out
    assert "pack: 4.0 MiB" in said
    assert "pack-2: 4.0 MiB" in said
    with pytest.raises(SystemExit, match="pack: is too large"):
        pack.split(folder, second, project + 0.5)


def test_command_line_says_what_is_missing(tmp_path: Path) -> None:
    def refused(*words: str) -> str:
        variables = os.environ | {"PYTHON": sys.executable}
        done = subprocess.run(
            [SCRIPT, *words], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode
        return done.stderr

    assert "--pack FOLDER" in refused()
    assert "photos/splits: missing; give the folder of the photos with --data" in refused(
        "--pack", "p", "--data=photos"
    )


def test_a_command_is_stopped_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "TO_STOP", 0.5)
    monkeypatch.setattr(parts, "TOO_SHORT", 0.1)

    def run(code: str, seconds: float) -> dict[str, Any]:
        piece: dict[str, Any] = parts.run("it", [sys.executable, "-Sc", code], tmp_path, time.monotonic() + seconds)
        return piece

    assert run("", 60)["state"] == "done"
    failed = run("import sys; print('one'); sys.exit('two')", 60)
    assert (failed["state"], failed["reason"]) == ("failed", "one / two")
    assert run("", 0.55)["state"] == "skipped"
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    stopped = run(deaf, 1.2)
    assert stopped["state"] == "stopped"
    assert stopped["reason"].startswith("it was not done after")
    assert stopped["seconds"] < 30


def is_alive(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.timeout(60)
def test_a_stop_ends_what_runs_with_its_children_and_leaves_out_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "STOP", threading.Event())
    child = "import time; time.sleep(600)"
    code = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-Sc', {child!r}]).pid, flush=True); {child}"
    )
    command, end = [sys.executable, "-Sc", code], time.monotonic() + 600
    log = tmp_path / "logs" / "it.txt"
    with ThreadPoolExecutor(1) as pool:
        piece = pool.submit(parts.run, "it", command, tmp_path, end)
        while not (log.exists() and log.read_text()):
            time.sleep(0.05)
        parts.STOP.set()
    assert (piece.result()["state"], piece.result()["reason"]) == ("stopped", "by a signal")
    while is_alive(log.read_text().strip()):
        time.sleep(0.05)  # for ever, if nothing ends it
    rest = parts.run("more", command, tmp_path, end)
    assert (rest["state"], rest["reason"]) == ("skipped", "stopped by a signal")


def test_a_row_of_the_study_waits_for_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what needs a failed one is left out, and every row is in the file as soon as it is done."""
    file, begun, failing = tmp_path / "study.json", [], "KD"

    def instead(name: str, command: list[str], work: Path, end: float) -> dict[str, Any]:
        row, seed = (
            next(word.split("=")[1] for word in command if word.startswith(key)) for key in ("--rows", "--seed")
        )
        need = parts.STUDY[row, int(seed)]
        written = {piece["name"] for piece in json.loads(file.read_text())} if file.exists() else set()
        assert need is None or f"{need[0]}, seed {need[1]}" in written
        begun.append((row, int(seed)))
        if row == failing:
            return {"name": name, "state": "failed", "reason": "why", "seconds": 0}
        (work / "records").mkdir(exist_ok=True)
        (work / "records" / f"{run_name(row)}-{seed}.json").write_text('{"miou": 0.5}')
        return {"name": name, "state": "done", "seconds": 0}

    monkeypatch.setattr(parts, "run", instead)
    done = parts.study(file, tmp_path, tmp_path, 0, 7, tiny=False)
    assert sorted(begun) == sorted(parts.STUDY)
    assert json.loads(file.read_text()) == done
    assert {piece["name"]: piece["record"] for piece in done}["KD, seed 1"] is None
    assert all(piece["record"] == {"miou": 0.5} for piece in done if piece["state"] == "done")

    failing = "teacher"
    begun.clear()
    for record in (tmp_path / "records").iterdir():
        record.unlink()
    left_out = [piece for piece in parts.study(file, tmp_path, tmp_path, 0, 7, False) if piece["state"] == "skipped"]
    assert {piece["name"].partition(",")[0] for piece in left_out} == {"teacher's labels", "KD", "int8"}
    assert {"it needs teacher, seed 0", "it needs teacher's labels, seed 0"} <= {piece["reason"] for piece in left_out}


def test_outcomes_of_tests_are_told_with_their_reason(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(
        "import pytest\n"
        "def test_passes(): pass\n"
        "def test_fails(): assert 1 == 2, 'not equal'\n"
        "def test_skips(): pytest.skip('no device')\n"
    )
    (tmp_path / "test_two.py").write_text("import nosuchpackage\n")
    junit = tmp_path / "junit.xml"
    options = ["-q", "--continue-on-collection-errors", "-p", "no:cacheprovider", f"--junitxml={junit}", "-c/dev/null"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    variables = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they take seconds
    subprocess.run(command, env=variables, capture_output=True, check=False)
    told = {
        piece["name"].rpartition("::")[2]: (piece["state"], piece.get("reason", "")) for piece in parts.outcomes(junit)
    }
    assert told.pop("test_passes") == ("passed", "")
    assert told.pop("test_skips") == ("skipped", "no device")
    state, reason = told.pop("test_fails")
    assert (state, reason.startswith("AssertionError: not equal")) == ("failed", True)
    ((state, reason),) = told.values()
    assert (state, reason) == ("error", "ModuleNotFoundError: No module named 'nosuchpackage'")


ONLY_THESE = """
import sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname.partition(".")[0] in LEFT_OUT else super().find_spec(fullname, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""


@pytest.mark.slow
def test_rehearsal_on_a_bare_machine(tmp_path: Path) -> None:
    """No package can be imported but those that the machine has and those that are carried."""
    allowed = closure([*pack.PROVIDED, *pack.CARRIED, *pack.WEIGHTS])
    modules = importlib.metadata.packages_distributions()
    left_out = {name for name, owners in modules.items() if not allowed & {normalized(owner) for owner in owners}}
    left_out -= {"semseg_app", "__editable___semseg_app_0_1_0_finder", "_virtualenv", "_distutils_hack"}
    assert {"onnxruntime", "matplotlib", "fastapi"} <= left_out
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(f"LEFT_OUT = {left_out!r}\n{ONLY_THESE}")
    generate(tmp_path / "pack" / "camvid", train=48, val=2, size=(64, 64), labeled_counts=())
    splits = tmp_path / "pack" / "camvid" / "splits"
    splits.mkdir(exist_ok=True)
    stems = sorted(path.stem for path in (tmp_path / "pack" / "camvid" / "images" / "train").iterdir())
    (splits / "1_16-labeled.txt").write_text("\n".join(stems[::16]) + "\n")
    (splits / "1_16-unlabeled.txt").write_text("\n".join(stem for stem in stems if stem not in stems[::16]) + "\n")

    variables = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(site)}
    command = [SCRIPT, tmp_path / "pack", tmp_path / "out", "--tiny", "--minutes=60", f"--work={tmp_path / 'work'}"]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("machine", *parts.ENDS)}
    assert told["machine"]["versions"]["torch"] == importlib.metadata.version("torch")
    outcomes = {piece["name"]: piece for piece in told["tests"]}
    assert any("No module named 'onnxruntime'" in piece.get("reason", "") for piece in outcomes.values()), outcomes
    assert sum(
        "scores_it_alike" in name and piece["state"] in ("skipped", "passed") for name, piece in outcomes.items()
    )
    for piece in told["steps"]:
        assert piece["state"] == "done", piece
        assert all(measured["images_per_second"] > 0 for measured in piece["measured"])
    rows = {piece["name"]: piece for piece in told["study"]}
    assert set(rows) == {f"{row}, seed 0" for row, seed in parts.STUDY if seed == 0}
    int8 = rows.pop("int8, seed 0")
    assert (int8["state"], "pip install 'semseg-app[export" in int8["reason"]) == ("failed", True), int8
    assert {piece["state"] for piece in rows.values()} == {"done"}, rows
    assert rows["23 labels, seed 0"]["record"]["data"]["labeled"]["images"] == 23
