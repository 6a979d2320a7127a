"""`semseg demo` from nothing, in a process of its own, with a few steps; then again, from what lies there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from semseg_app.cli.demo import demo as demo_verb
from semseg_app.errors import UserError


def demo(folder: Path) -> tuple[list[dict], str]:
    command = [sys.executable, "-m", "semseg_app.cli", "demo", "--no-serve", "--folder", str(folder)]
    command += ["--images", "8", "--steps", "2", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout), result.stderr


def test_what_lies_there_already_is_not_taken_for_something_else(tmp_path):
    streets, teacher = tmp_path / "streets", tmp_path / "teacher"
    for kind in ("images", "labels"):
        (streets / kind / "train").mkdir(parents=True)
        for name in ("a.png", "b.png"):
            Image.new("L", (8, 8)).save(streets / kind / "train" / name)
    (streets / "dataset.yaml").write_text("name: streets\nclasses: [sky, road]\n")
    with pytest.raises(UserError, match="streets: holds 2 training streets, not 8; choose another --folder"):
        demo_verb(folder=tmp_path, no_serve=True, images=8)
    teacher.mkdir()
    (teacher / "report.json").write_text(json.dumps({"recipe": {"schedule": {"steps": 2}}}))
    with pytest.raises(UserError, match="teacher: was trained for 2 steps, not 3; choose another --folder"):
        demo_verb(folder=tmp_path, no_serve=True, images=2, steps=3)


@pytest.mark.slow
def test_the_walk_ends_with_a_verified_engine(tmp_path):
    rows, said = demo(tmp_path / "demo")
    assert "step 2/2" in said
    assert [row["model"] for row in rows] == ["teacher", "student", "student, exported"]
    teacher, student, exported = rows
    assert student["megabytes"] < 0.7 * teacher["megabytes"]
    assert abs(exported["miou"] - student["miou"]) < 0.001
    manifest = json.loads((tmp_path / "demo" / "student" / "best" / "manifest.json").read_text())
    assert manifest["exports"]["onnx/model.onnx"]["verdict"] == "passed"
    config = json.loads((tmp_path / "demo" / "student" / "best" / "config.json").read_text())
    assert config["provenance"]["training"]["recipe"]["method"]["name"] == "distillation"
    again, said = demo(tmp_path / "demo")
    assert "step 2/2" not in said
    assert said.count("is trained already, for 2 steps") == 2
    assert [row["miou"] for row in again] == [row["miou"] for row in rows]
