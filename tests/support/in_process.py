"""`semseg` in this process: importing torch again for each command takes seconds."""

import contextlib
import io
import subprocess
import sys
from unittest import mock

from semseg_app.cli.main import main


def semseg(*arguments: object) -> subprocess.CompletedProcess[str]:
    """What the same command line in a process of its own would have returned, written and said."""
    words = [str(argument) for argument in arguments]
    out, said = io.StringIO(), io.StringIO()
    code: object = "main() returned"
    with (
        mock.patch.object(sys, "argv", ["semseg", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(said),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int), code
    return subprocess.CompletedProcess(words, code, out.getvalue(), said.getvalue())
