"""`semseg doctor`: planted defects are found, and nothing that crashes takes it along."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from semseg_app import doctor, machine
from semseg_app.cli.main import main
from semseg_app.doctor import engines, packages, system
from semseg_app.doctor.diagnosis import Check
from semseg_app.doctor.probe import probe
from semseg_app.doctor.tiny_graph import tiny_graph
from semseg_app.inference.engines.metadata import parse
from semseg_app.machine import Gpu

H200 = Gpu("NVIDIA H200", "580.95", 143_771, 3, "9.0")


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a distribution, and a module where source is given, in front of everything else: here and in probes."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def install(distribution: str, release: str, module: str = "", source: str = "") -> None:
        metadata = tmp_path / f"{distribution.replace('-', '_')}-{release}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {release}\n")
        if module:
            (tmp_path / f"{module}.py").write_text(source)

    return install


def test_the_tiny_graph_is_a_graph_of_ours() -> None:
    model = onnx.load_from_string(tiny_graph())
    onnx.checker.check_model(model, full_check=True)
    metadata = parse(Path("tiny.onnx"), {one.key: one.value for one in model.metadata_props})
    assert (metadata.name, metadata.precision) == ("tiny", "fp32")
    images = np.random.default_rng(1).integers(0, 256, (2, 5, 7, 3), np.uint8)
    session = onnxruntime.InferenceSession(tiny_graph(), providers=["CPUExecutionProvider"])
    classes, confidence = session.run(["classes", "confidence"], {"images": images})
    np.testing.assert_array_equal(classes, images.argmax(axis=3))
    np.testing.assert_array_equal(confidence, images.max(axis=3))


@pytest.mark.parametrize(("gpus", "extra"), [([], "cpu"), ([H200], "gpu")])
def test_both_wheels(plant, monkeypatch, gpus, extra) -> None:
    plant("onnxruntime-gpu", "1.30.0")
    monkeypatch.setattr("semseg_app.machine.gpus", lambda: gpus)
    check = next(engines.onnxruntime())
    assert check.status == "error"
    assert "onnxruntime and onnxruntime-gpu are both installed" in check.message
    assert check.fix == f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'semseg-app[{extra}]'"


FALLS_BACK = """
__version__ = "1.31.1"
def get_available_providers(): return ["CUDAExecutionProvider"]
def preload_dlls(): print("Failed to load libcublas")
class InferenceSession:
    def __init__(self, model, providers, enable_fallback): pass
    def get_providers(self): return ["CPUExecutionProvider"]
"""


def test_a_provider_that_falls_back_in_silence(plant, monkeypatch) -> None:
    plant("onnxruntime", "1.31.1", "onnxruntime", FALLS_BACK)
    outcome = probe("provider", "CUDAExecutionProvider")
    assert outcome.failure == "RuntimeError: could not be started, and CPUExecutionProvider took its place in silence"
    monkeypatch.setattr(engines, "probe", lambda name, *_: outcome if name == "provider" else probe(name))
    monkeypatch.setattr("semseg_app.machine.gpus", lambda: [H200])
    check = {check.name: check for check in engines.onnxruntime()}["provider CUDA"]
    assert check.status == "error"
    assert "took its place in silence" in check.message
    assert check.fix is not None
    assert "onnxruntime-gpu[cuda,cudnn]" in check.fix
    monkeypatch.setattr("semseg_app.machine.gpus", list)
    assert {check.name: check.status for check in engines.onnxruntime()}["provider CUDA"] == "ok"


CRASHES = """
import os
__version__ = "11.4.0"
class Logger:
    ERROR = 1
    def __init__(self, level): pass
def Builder(logger): os.abort()
"""


def test_a_builder_that_crashes_or_hangs(plant, monkeypatch) -> None:
    plant("tensorrt", "11.4.0", "tensorrt", CRASHES)
    monkeypatch.setattr("semseg_app.machine.gpus", list)
    check = next(engines.tensorrt())
    assert (check.name, check.status) == ("tensorrt", "warning")
    assert check.message == "11.4.0 builds nothing without a GPU (the process crashed (SIGABRT))"
    monkeypatch.setattr("semseg_app.machine.gpus", lambda: [H200])
    assert next(engines.tensorrt()).status == "error"
    plant("sleeper", "1", "sleeper", "import time; time.sleep(600)")
    assert probe("tensorrt", "sleeper", seconds=1).failure == "no answer within 1 s"
    monkeypatch.setattr(engines, "TENSORRT_PACKAGES", {"nobody-has-this": "nobody"})
    (check,) = engines.tensorrt()
    assert (check.name, check.status) == ("nobody-has-this", "ok")
    assert "not installed" in check.message


def test_openvino_runs_is_broken_or_is_not_there(plant, monkeypatch) -> None:
    found, engine = engines.openvino()
    assert (found.name, found.status, engine.name, engine.status) == ("openvino", "ok", "openvino engine", "ok")
    assert "tiny runs on cpu in fp32" in engine.message
    plant("openvino", "2026.4.1", "openvino", "raise ImportError('libopenvino.so: cannot open')")
    (check,) = engines.openvino()
    assert (check.status, check.fix) == ("error", "pip install --force-reinstall openvino")
    assert "libopenvino.so: cannot open" in check.message

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(engines, "version", absent)
    (check,) = engines.openvino()
    assert check.status == "ok"
    assert "not installed" in check.message


def test_missing_and_outdated_packages(monkeypatch) -> None:
    installed = {"gradio": None, "uvicorn": "0.1", "torch": "2.14.1+cu130", "pillow": None}

    def planted(name: str) -> str:
        found = installed[name] if name in installed else version(name)
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(packages, "version", planted)
    checks = {check.name: check for check in packages.extras()}
    assert checks["extra train"].status == checks["extra export"].status == "ok"
    assert checks["extra serve"].status == "warning"
    assert "not installed: gradio; uvicorn is 0.1, not >=0.35" in checks["extra serve"].message
    assert checks["extra serve"].fix == "pip install --upgrade 'semseg-app[serve]'"
    assert checks["packages"].status == "error"
    assert checks["packages"].message == "not installed: pillow"


def test_no_disk_and_no_memory(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not" / "made" / "yet"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**12, 10**12, 3 * 10**8))
    cache, working = system.disk()
    assert (cache.status, working.status) == ("error", "error")
    assert f"0.3 GB free ({tmp_path / 'not' / 'made' / 'yet' / 'hub'})" in cache.message
    assert cache.fix is not None
    assert "HF_HOME" in cache.fix
    monkeypatch.setattr("semseg_app.machine.memory", lambda: (64 * 10**9, 4 * 10**8))
    assert next(system.memory()).status == "error"
    monkeypatch.setattr("semseg_app.machine.memory", lambda: (64 * 10**9, 10**9))
    assert next(system.memory()).status == "warning"


def test_a_driver_that_does_not_answer(tmp_path, monkeypatch) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not talk to the driver.'\nexit 9\n")
    program.chmod(0o755)
    (check,) = system.driver()
    assert check.status == "error"
    assert "could not talk to the driver" in check.message
    rows = ("NVIDIA H200, 580.95.05, 143771, 1024, 9.0", "NVIDIA H200, 580.95.05, [N/A], 0, 9.0")
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows))
    first, second = system.driver()
    assert (first.status, second.status) == ("ok", "ok")
    assert first.message.endswith("NVIDIA H200, 140 GiB, 1.0 in use")


def semseg_doctor(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["semseg", "doctor", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_verb(monkeypatch, capsys) -> None:
    def fine():
        yield Check("python", "ok", "3.11")
        yield Check("extra serve", "warning", "not there", "pip install it")

    def surprising():
        raise OSError("a\nsurprise")
        yield

    monkeypatch.setattr(doctor, "GROUPS", (("python", fine),))
    assert semseg_doctor() == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "ok       python: 3.11",
        "warning  extra serve: not there",
        "         -> pip install it",
        "0 errors, 1 warnings",
    ]
    monkeypatch.setattr(doctor, "GROUPS", (("python", fine), ("disk", surprising)))
    assert semseg_doctor("--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["warning"], report["error"]) == (1, 1, 1)
    assert report["checks"][2]["name"] == "disk"
    assert report["checks"][2]["message"] == "could not be examined: OSError: a surprise"
    assert semseg_doctor("nowhere") == 2


def test_a_model(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(doctor, "GROUPS", ())
    graph = tmp_path / "tiny.onnx"
    graph.write_bytes(tiny_graph())
    assert semseg_doctor(str(graph)) == 0
    assert "model tiny.onnx: tiny runs on cpu in fp32" in capsys.readouterr().out
    graph.write_bytes(tiny_graph()[:100])
    assert semseg_doctor(str(graph)) == 1
    said = capsys.readouterr().out
    assert f"does not run: {graph}: not a graph that ONNX Runtime loads" in said
    assert semseg_doctor(str(tmp_path)) == 1
    assert "not a model folder" in capsys.readouterr().out


def test_the_doctor_speaks_where_nothing_else_can_be_imported() -> None:
    blocked = "import sys\nfor name in ('numpy', 'torch', 'onnxruntime', 'pydantic'): sys.modules[name] = None\n"
    program = f"{blocked}from semseg_app.doctor import examine"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_peak_memory_can_be_forgotten() -> None:
    machine.forget_peak_memory()
    before = machine.peak_memory()
    block = b"x" * (300 << 20)
    assert machine.peak_memory() - before > 200 << 20
    del block
    machine.forget_peak_memory()
    assert machine.peak_memory() - before < 100 << 20
