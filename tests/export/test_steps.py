"""An export says what it is doing."""

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from semseg_app.export.steps import step


def test_a_step_is_said_at_its_start_and_again_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "semseg_app.export")
    with step("tracing", reminder_s=0.05):
        assert [record.getMessage() for record in caplog.records] == ["tracing"]
        deadline = time.monotonic() + 10
        while len(caplog.records) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) >= 3
    assert all(line.startswith("tracing: still running after ") for line in said[1:])
    time.sleep(0.15)
    assert len(caplog.records) == len(said), "a step that has ended is silent"


def test_a_step_that_fails_ends_its_reminders(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "semseg_app.export")
    with pytest.raises(ZeroDivisionError), step("dividing", reminder_s=0.05):
        _ = 1 / 0
    time.sleep(0.15)
    assert [record.getMessage() for record in caplog.records] == ["dividing"]


def test_verify_speaks_before_it_has_loaded_torch(exported: Callable[[str], Path]) -> None:
    """Also where stderr is no terminal, and stdout stays free for the answer."""
    folder = exported("deeplabv3plus")
    command = [sys.executable, "-m", "semseg_app.cli", "verify", str(folder)]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        after = time.monotonic() - start
        lines = process.stderr.read().splitlines()
        assert process.stdout is not None
        assert process.stdout.read() == ""
    total = time.monotonic() - start
    assert first == f"{folder}: verifying model.onnx\n"
    assert after < total / 2, "torch takes longer to import than the first line to come"
    sizes = ("131x127", "192x256", "480x360")
    assert lines[:3] == [f"comparing onnxruntime fp32 with the trained network at {size}" for size in sizes]
    assert lines[-1].startswith("verdict: ")
