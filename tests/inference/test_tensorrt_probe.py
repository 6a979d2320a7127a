"""Whether TensorRT works here is tried in a process of its own: what it does there reaches the user in one line."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorrt_rtx

from semseg_app.errors import UserError
from semseg_app.inference.engines.tensorrt_probe import probe


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a package `tensorrt` with this source."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)

    def install(source: str) -> None:
        (tmp_path / "site" / "tensorrt").mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / "tensorrt" / "__init__.py").write_text(source)

    return install


WORKING = """
__version__ = "11.4.0"
class Logger:
    ERROR = 0
    def __init__(self, level): pass
Runtime = Builder = Logger
"""


def test_probe_gives_the_version_of_what_works(installed: Callable[[str], None]) -> None:
    installed(WORKING)
    assert probe("tensorrt", "Builder") == "11.4.0"
    assert probe("tensorrt_rtx", "Builder") == tensorrt_rtx.__version__


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("import nvinfer_that_is_not_here", "ModuleNotFoundError: No module named 'nvinfer_that_is_not_here'"),
        (WORKING.replace("11.4.0", "10.9.1"), r"TensorRT 10\.9\.1 is installed, 11 is needed: pip install"),
        (WORKING + "import os\ndef Builder(log): os.abort()", r"TensorRT 11\.4\.0 does not work here: it crashes"),
        (WORKING + "def Builder(log): raise TypeError('init(): null')", r"here: TypeError: init\(\): null"),
        (WORKING + "def Builder(log): return None", "here: AssertionError: it cannot be started"),
    ],
)  # fmt: skip
def test_probe_survives_what_it_finds(installed: Callable[[str], None], source: str, line: str) -> None:
    installed(source)
    with pytest.raises(UserError, match=line) as caught:
        probe("tensorrt", "Builder")
    assert "\n" not in str(caught.value)
    assert "pip install 'semseg-app[gpu]'" in str(caught.value)
