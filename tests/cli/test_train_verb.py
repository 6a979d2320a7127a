"""`semseg train` before anything is trained."""

import subprocess
import sys


def test_an_unknown_recipe_is_refused_before_torch_is_imported() -> None:
    code = "import sys; sys.modules['torch'] = None; from semseg_app.cli.main import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code, "train", "voc-unimtch"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stderr.startswith("semseg: voc-unimtch: no such recipe file, and no preset of that name")
    assert run.stderr.endswith("did you mean voc-unimatch?\n")
    assert run.stderr.count("\n") == 1
