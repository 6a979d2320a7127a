"""What the libraries below would send to their makers is switched off before they are imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

VARIABLES = ("ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED", "GRADIO_ANALYTICS_ENABLED")


def run(code: str, cache: Path, **variables: str) -> str:
    """What a new Python prints, whose environment says nothing of such reports but `variables`."""
    others = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment = others | {"XDG_CACHE_HOME": str(cache)} | variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_onnx_runtime_keeps_and_sends_no_events(tmp_path):
    """Where it collects events to send, it keeps them in the user's cache folder."""
    run("import semseg_app.inference.engines.onnxruntime", tmp_path / "cache")
    assert not list(tmp_path.rglob("*"))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
def test_ray_sends_no_figures(tmp_path):
    code = (
        "import semseg_app; from ray._common.usage.usage_lib import usage_stats_enabled; print(usage_stats_enabled())"
    )
    assert run(code, tmp_path) == "False"
    assert run(code, tmp_path, RAY_USAGE_STATS_ENABLED="1") == "True"  # the environment's own wish


def test_gradio_sends_no_analytics(tmp_path):
    code = (
        "import semseg_app.serve.demo.page; from gradio.analytics import analytics_enabled; print(analytics_enabled())"
    )
    assert run(code, tmp_path) == "False"
