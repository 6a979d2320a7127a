"""The command line as a whole."""

import subprocess
import sys
import time

import pytest

VERBS = ["check", "data", "train", "evaluate", "predict", "export", "benchmark", "serve", "demo", "doctor", "schema"]
VERBS += ["push", "pull", "space"]


def semseg(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "semseg_app.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_is_instant_and_names_every_verb():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = semseg("--help")
        seconds.append(time.perf_counter() - start)
    assert result.returncode == 0
    assert all(f"\n  {verb} " in result.stdout for verb in VERBS)
    assert min(seconds) < 0.4


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb):
    assert semseg(verb, "--help").returncode == 0


def test_a_mistake_is_one_line_and_exit_code_2():
    result = semseg("check", "nowhere")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("semseg: ")
    assert result.stderr.count("\n") == 1
    assert "nowhere" in result.stderr
