"""What a quarter of an hour on a GPU is used for: its tests, what a step costs, and the study at full length.

    benchmarks/gpu.sh FOLDER OUT [--minutes 12] [--steps 1000] [--work FOLDER] [--tiny]

FOLDER/camvid holds the photos (gpu_pack.py). Every part has a deadline; what does not fit is stopped or left out, and
OUT says so: machine.json, tests.json, steps.json and study.json are written anew after each piece of work, so that a
stop loses at most what is in progress. Runs and logs go to the work folder; started again with the same one, the study
goes on where it was.

--tiny is a rehearsal on a CPU: a tiny network, two steps, one seed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from semseg_app import machine
from semseg_app.files import atomic_file
from semseg_app.training.compare import run_name

PROJECT = Path(__file__).parents[1]
AT_ONCE = 3
Run = tuple[str, int]
STUDY: dict[Run, Run | None] = {
    ("1/16 labels", 0): None,
    ("teacher", 0): ("1/16 labels", 0),
    ("23 labels", 0): ("1/16 labels", 0),
    ("367 labels", 0): None,
    ("23 labels", 1): ("1/16 labels", 0),
    ("367 labels", 1): None,
    ("teacher's labels", 0): ("teacher", 0),
    ("23 labels", 2): ("1/16 labels", 0),
    ("KD", 0): ("teacher", 0),
    ("367 labels", 2): None,
    ("teacher's labels", 1): ("teacher's labels", 0),
    ("int8", 0): ("teacher's labels", 0),
    ("KD", 1): ("teacher", 0),
    ("teacher's labels", 2): ("teacher's labels", 1),
    ("KD", 2): ("teacher", 0),
    ("teacher", 1): ("1/16 labels", 0),
    ("teacher", 2): ("1/16 labels", 0),
}
"""Row and seed of the study -> the run that it needs, the most telling ones first. "1/16 labels" draws the lists of 23
photos. Students of all seeds have the teacher of seed 0, and write its labels anew: one after the other."""
ENDS = {"tests": 0.15, "steps": 0.4, "study": 1.0}
"""Fraction of all minutes after which a part must have ended; the time that one leaves over goes to the next."""
TOO_SHORT = 5.0
"""Seconds in which nothing is worth starting: Python and torch alone take as long."""
TO_STOP = 10.0
"""Seconds before the deadline at which a command is asked to stop; after half of them it is killed."""
POLL = 0.2
"""Seconds after which a wait looks at the clock, and whether all was stopped."""
STOP = threading.Event()
"""Set by SIGINT and SIGTERM: what runs is stopped, what is left is left out, and OUT says so."""
PACKAGES = ("accelerate", "huggingface-hub", "numpy", "onnx", "onnxruntime", "onnxscript", "pydantic", "pytest")
PACKAGES += ("segmentation-models-pytorch", "timm", "torch", "torchvision", "triton", "typer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--steps", type=int, default=1000, help="of every row of the study")
    parser.add_argument("--work", type=Path, default=Path("/tmp/semseg-gpu"))
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: STOP.set())
    began = time.monotonic()
    photos = (arguments.folder / "camvid").resolve()
    if not photos.is_dir():
        sys.exit(f"{photos}: missing; make it with --pack, or link the photos there")
    cuda, tiny = torch.cuda.is_available(), arguments.tiny
    if not cuda and not tiny:
        sys.exit("torch finds no GPU here; --tiny rehearses on a CPU")
    out = arguments.out.resolve()
    # Runs of another length are other runs.
    work = (arguments.work / ("tiny" if tiny else f"{arguments.steps}-steps")).resolve()
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "commit": commit(),
        "minutes": arguments.minutes,
        "tiny": tiny,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "gpu_memory_mb": torch.cuda.get_device_properties(0).total_memory >> 20 if cuda else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "versions": machine.versions({*machine.PACKAGES, *PACKAGES}),
    }
    write(out / "machine.json", facts | machine.hardware())
    ends = {part: began + 60 * arguments.minutes * share for part, share in ENDS.items()}
    pieces = {
        "tests": gpu_tests(out / "tests.json", work, ends["tests"]),
        "steps": step_costs(out / "steps.json", work, ends["steps"], tiny),
        "study": study(out / "study.json", work, photos, ends["study"], arguments.steps, tiny),
    }
    for part, done in pieces.items():
        states = [piece["state"] for piece in done]
        print(f"{part}: " + ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))))
        for piece in done:
            if "reason" in piece:
                print(f"  {piece['name']}: {piece['state']}: {piece['reason']}")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes; {out}")


def gpu_tests(file: Path, work: Path, end: float) -> list[dict[str, Any]]:
    """Every test marked gpu, each with its outcome. A file that lacks a package here is one entry that says which."""
    files = [
        path for path in sorted((PROJECT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text("utf-8")
    ]
    junit = work / "junit.xml"
    junit.unlink(missing_ok=True)
    options = ["-m", "gpu", "--continue-on-collection-errors", f"--junitxml={junit}"]
    options += ["-p", "no:cacheprovider", "-p", "pytest_timeout"]
    piece = run("pytest", [sys.executable, "-m", "pytest", *options, *map(str, files)], work, end, PROJECT)
    done = outcomes(junit) if junit.exists() else []
    if piece["state"] in ("stopped", "skipped") or not done:
        done.append(piece)
    write(file, done)
    return done


def outcomes(junit: Path) -> list[dict[str, Any]]:
    """The tests of pytest's report: passed, skipped, failed, or error where a test could not begin."""
    done: list[dict[str, Any]] = []
    for case in ElementTree.parse(junit).iter("testcase"):
        if case.get("name") is None:  # it ran when pytest was stopped
            continue
        piece = {"name": f"{case.get('classname')}::{case.get('name')}".lstrip(":"), "state": "passed"}
        piece["seconds"] = float(case.get("time", 0))
        for state, tag in (("skipped", "skipped"), ("failed", "failure"), ("error", "error")):
            if (child := case.find(tag)) is not None:
                # Where a test could not begin, the message says only when, and the traceback why.
                errors = [line for line in (child.text or "").splitlines() if line.startswith("E  ")]
                reason = errors[-1] if errors and state == "error" else child.get("message", "").partition("\n")[0]
                piece |= {"state": state, "reason": reason.removeprefix("E").strip()}
        done.append(piece)
    return done


def step_costs(file: Path, work: Path, end: float, tiny: bool) -> list[dict[str, Any]]:
    """benchmarks/step_cost.py for all methods, then for the pair of Af-DCD in fp32, bf16 and compiled."""
    methods = ["--batch=16", "--crop=384", "--rounds=20"]  # a multiple of 48: S4Former's blocks
    pair = ["--only=Af-DCD", "--batch=8", "--crop=512x1024", "--rounds=10"]
    if tiny:
        methods = ["--batch=1", "--crop=48", "--rounds=1", "--only=supervised,UniMatch"]
        pair = ["--only=Af-DCD", "--batch=1", "--crop=128", "--rounds=1"]
    settings = {
        "methods, bf16": methods,
        "Af-DCD, fp32": [*pair, "--precision=fp32"],
        "Af-DCD, bf16": pair,
        "Af-DCD, bf16, compiled": [*pair, "--compile"],
        "methods, fp32": [*methods, "--precision=fp32"],
    }
    done: list[dict[str, Any]] = []
    for name, options in settings.items():
        if tiny and name not in ("methods, bf16", "Af-DCD, bf16"):
            continue
        measured = work / f"{run_name(name)}.json"
        measured.unlink(missing_ok=True)
        command = [sys.executable, str(PROJECT / "benchmarks" / "step_cost.py"), *options, f"--json={measured}"]
        piece = run(name, [*command, "--device", "cpu" if tiny else "cuda"], work, end)
        done.append(piece | {"measured": json.loads(measured.read_text()) if measured.exists() else []})
        write(file, done)
    return done


def study(file: Path, work: Path, photos: Path, end: float, steps: int, tiny: bool) -> list[dict[str, Any]]:
    """Rows of benchmarks/study.py, three at a time: the step of a small network is bound by the processor that launches
    it, so that they share a GPU well."""
    workers = max(1, min(5, machine.cores() // AT_ONCE - 1))
    length = [f"--set=schedule.steps={steps}", f"--set=evaluate_every={steps}", "--set=batch_size=16"]
    length += ["--set=view.crop=[320,320]", f"--set=data.workers={workers}"]
    if tiny:
        length = ["--tiny", "--set=data.workers=0"]
    records = work / "records"
    runs = {job: need for job, need in STUDY.items() if not tiny or job[1] == 0}
    done: dict[Run, dict[str, Any]] = {}
    ended = {job: threading.Event() for job in runs}
    writing = threading.Lock()

    def row_of_study(job: Run) -> None:
        row, seed = job
        name, need = f"{row}, seed {seed}", runs[job]
        if need:
            ended[need].wait()
        if need and done[need]["record"] is None:
            piece = left_out(name, f"it needs {need[0]}, seed {need[1]}")
        else:
            command = [sys.executable, str(PROJECT / "benchmarks" / "study.py"), f"--data={photos}", f"--rows={row}"]
            piece = run(name, [*command, f"--seeds={seed}", f"--records={records}", *length], work, end)
        record = records / f"{run_name(row)}-{seed}.json"
        with writing:
            done[job] = piece | {"record": json.loads(record.read_text()) if record.exists() else None}
            write(file, list(done.values()))
        ended[job].set()

    # A run is taken up after those before it, so that whichever it waits for is done or at work.
    with ThreadPoolExecutor(1 if tiny else AT_ONCE) as pool:
        list(pool.map(row_of_study, runs))
    return list(done.values())


def left_out(name: str, reason: str) -> dict[str, Any]:
    return {"name": name, "state": "skipped", "reason": reason, "seconds": 0}


def run(name: str, command: Sequence[str], work: Path, end: float, folder: Path | None = None) -> dict[str, Any]:
    """Run a command until `end` of the monotonic clock.

    Returns its name, state (done, failed, stopped or skipped) and seconds, and the reason where it is not done.
    """
    began = time.monotonic()
    left = end - TO_STOP - began
    if STOP.is_set() or left < TOO_SHORT:
        return left_out(name, "stopped by a signal" if STOP.is_set() else "no time was left")
    log = work / "logs" / f"{run_name(name)}.txt"
    log.parent.mkdir(exist_ok=True)
    # pytest's plugins that happen to be installed there may be too old for the pytest that was carried.
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    variables = os.environ | settings
    state, reason = "done", ""
    with log.open("wb") as output:
        # A session of its own: a stop reaches the loader's processes too.
        process = subprocess.Popen(
            command, cwd=folder or work, env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        while process.poll() is None and time.monotonic() < end - TO_STOP and not STOP.is_set():
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
        if process.poll() is None:
            state = "stopped"
            reason = "by a signal" if STOP.is_set() else f"it was not done after {left:.0f} s"
            kill(process, signal.SIGINT)  # a run writes its checkpoint, and pytest its report
            try:
                process.wait(TO_STOP / 2)
            except subprocess.TimeoutExpired:
                kill(process, signal.SIGKILL)
                process.wait()
        elif process.returncode:
            lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
            state, reason = "failed", " / ".join(lines[-2:]) or f"exit code {process.returncode}"
    piece = {"name": name, "state": state, "seconds": round(time.monotonic() - began, 1)}
    print(f"{name}: {state} in {piece['seconds']} s", flush=True)
    return piece | ({"reason": reason} if reason else {})


def kill(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to a process and to those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def commit() -> str | None:
    """The project's commit; None where git or its folder did not come along."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return answer.stdout.strip() or None


def write(file: Path, content: Any) -> None:
    with atomic_file(file) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
