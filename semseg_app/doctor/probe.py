"""Run one probe in a process of its own: what crashes or hangs there is a line of the report here."""

import json
import os
import signal
import subprocess
import sys
from typing import Any, NamedTuple

SECONDS = 180
"""A first import of torch from a slow disk takes a minute."""


class Outcome(NamedTuple):
    """What a probe said, and how it ended."""

    said: dict[str, Any]
    """Everything that it said, until it ended."""
    failure: str | None
    """Why it did not end well, in one line."""
    missing: bool = False
    """Whether that is a package that is not installed."""


def probe(name: str, *arguments: str, seconds: float = SECONDS) -> Outcome:
    """Run the function `name` of probes.py."""
    # -P: a file torch.py in the working folder must not pass for the package.
    command = [sys.executable, "-P", "-m", "semseg_app.doctor.probes", name, *arguments]
    environment = os.environ | {"PYTHONFAULTHANDLER": ""}  # a crash is told in our words, not with a stack of threads
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
        text = output if isinstance(output, str) else output.decode(errors="replace")
        return Outcome(_merged(text), f"no answer within {seconds:.0f} s")
    said = _merged(done.stdout)
    failure, missing = said.pop("failure", None), said.pop("missing", False)
    if failure is None and done.returncode < 0:
        failure = f"the process crashed ({signal.Signals(-done.returncode).name})"
    elif failure is None and done.returncode:
        lines = done.stderr.strip().splitlines()
        failure = lines[-1].strip() if lines else f"the process ended with {done.returncode}"
    return Outcome(said, failure, missing)


def _merged(output: str) -> dict[str, Any]:
    """The JSON objects of all whole lines, later ones over earlier ones."""
    said: dict[str, Any] = {}
    for line in output.splitlines(keepends=True):
        if line.endswith("\n"):
            said |= json.loads(line)
    return said
