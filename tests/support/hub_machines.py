"""Somebody's computer, as far as the Hub is concerned."""

import json
import os
import subprocess
import sys
from pathlib import Path

WITHOUT_TRAINING = """
import sys
for name in ("torch", "torchvision", "timm", "accelerate", "segmentation_models_pytorch", "onnx", "onnx_ir"):
    sys.modules[name] = None
from semseg_app.cli.main import main
main()
"""
"""`semseg` where the extras for training and export are not installed."""


MISTAKES = """
import contextlib, io, json, sys
from semseg_app.cli.main import main
answers = []
for verb in json.loads(sys.argv[1]):
    sys.argv[1:] = verb
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
    answers.append([code, said.getvalue()])
print(json.dumps(answers))
"""


class Machine:
    """Somebody's computer: a working folder, a cache and perhaps a token. What runs on it is a process of its own."""

    def __init__(self, place: Path, url: str, token: str | None):
        self.place = place
        place.mkdir(exist_ok=True)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
            "HF_ENDPOINT": url,
            "HF_HOME": str(place / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
            **({"HF_TOKEN": token} if token else {}),
        }

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [sys.executable, *command], cwd=self.place, env=self.environment | environment, text=True, **pipes
        )

    def run(self, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*command, **environment)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def semseg(self, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        return self.run("-c", WITHOUT_TRAINING, *map(str, arguments), **environment)

    def full(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """`semseg` with every extra."""
        return self.run("-m", "semseg_app.cli", *map(str, arguments))

    def mistakes(self, *verbs: tuple[object, ...]) -> list[str]:
        """The line of each of these mistaken verbs, all in one process; each must be one line and exit code 2."""
        result = self.run("-c", MISTAKES, json.dumps([[str(one) for one in verb] for verb in verbs]))
        assert result.returncode == 0, result.stderr
        answers = json.loads(result.stdout)
        for code, said in answers:
            assert code == 2
            assert said.startswith("semseg: ")
            assert said.count("\n") == 1
        return [said for _, said in answers]

    def python(self, code: str, *arguments: str, **environment: str) -> str:
        result = self.run("-W", "error", "-c", code, *arguments, **environment)
        assert result.returncode == 0, result.stderr
        return result.stdout


def last_line(result: "subprocess.CompletedProcess[str]") -> str:
    """The one line that a mistake ends in: exit code 2, no traceback."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]
