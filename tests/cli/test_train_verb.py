"""`semseg train` before anything is trained."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.in_process import semseg


def test_an_unknown_recipe_is_refused_before_torch_is_imported() -> None:
    code = "import sys; sys.modules['torch'] = None; from semseg_app.cli.main import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code, "train", "voc-unimtch"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stderr.startswith("semseg: voc-unimtch: no such recipe file, and no preset of that name")
    assert run.stderr.endswith("did you mean voc-unimatch?\n")
    assert run.stderr.count("\n") == 1


def test_a_recipe_that_exists_is_not_replaced_and_torch_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: mine\n")
    code = "import sys; sys.modules['torch'] = None; from semseg_app.cli.main import main; main()"
    for verb in (["init", "photos"], ["train", "--data", "photos"]):
        run = subprocess.run(
            [sys.executable, "-c", code, *verb], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert (run.returncode, run.stderr.count("\n")) == (2, 1)
        assert "recipe.yaml: exists; train it with `semseg train recipe.yaml`, or replace it with --force" in run.stderr
    assert (tmp_path / "recipe.yaml").read_text() == "name: mine\n"


def test_a_teacher_belongs_to_data_and_its_student_has_a_recipe_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("student.yaml").write_text("name: mine\n")
    run = semseg("train", "--data", "photos", "--teacher", "runs/photos/best")
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "student.yaml: exists; train it with `semseg train student.yaml`" in run.stderr
    run = semseg("train", "student.yaml", "--teacher", "runs/photos/best")
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "--teacher belongs to --data; a recipe has method.teacher" in run.stderr
