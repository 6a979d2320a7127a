"""Cores that the process may use: its affinity, and the CPU quota of its control groups."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from semseg_app import machine

V2 = "0::/system.slice/app.service\n"
V1 = "3:cpuset:/\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n0::/\n"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        (V2, {}, None),
        (V2, {"cpu.max": "max 100000"}, None),
        (V2, {"cpu.max": "150000 100000"}, 1.5),
        (V2, {"system.slice/cpu.max": "50000 100000", "system.slice/app.service/cpu.max": "200000 100000"}, 0.5),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3.0),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "25000", "cpu/docker/abc/cpu.cfs_period_us": "50000"}, 0.5),
    ],
)
def test_the_smallest_quota_counts(tmp_path, groups, files, quota):
    write(tmp_path, files)
    assert machine._cpu_quota(tmp_path, groups) == quota


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_engines_follow_the_affinity():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\nfrom semseg_app import machine\n"
    variables = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    for environment, expected in ((variables, "1 1"), (variables | {"OMP_NUM_THREADS": "3"}, "1 3")):
        command = [sys.executable, "-c", code + "print(machine.cores(), machine.threads())"]
        assert subprocess.check_output(command, env=environment, text=True).strip() == expected
