#!/usr/bin/env bash
# onnxruntime 1.31.1 for Linux, from PyPI: as soon as it is imported, it writes a number of the machine and a database of
# events below ~/.cache/Microsoft/DeveloperTools/.onnxruntime, and sends the events to mobile.events.data.microsoft.com.
# An event holds the number, the path of the program, processor, memory, system, kind of container. Nothing is asked or
# shown. disable_telemetry_events() comes too late for the first event.
# Seen: one import leaves a device id and the event ProcessInfo, with or without that call.
# What helps: ORT_DISABLE_TELEMETRY=1 in the environment before it is imported.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet onnxruntime==1.31.1 numpy==2.2.6
kept() {
    venv/bin/python - "$1" <<'PY'
import os, sqlite3, sys
from pathlib import Path
kept = sorted(path for path in Path(sys.argv[1]).rglob("*") if path.is_file())
events = [
    row[0]
    for path in kept if path.suffix == ".db"
    for row in sqlite3.connect(path).execute("SELECT CAST(payload AS BLOB) FROM events")
]
named = [event for event in events if b"ProcessInfo" in event and b"cpuModel" in event and os.fsencode("venv/bin/python") in event]
print(sys.argv[1], [path.name for path in kept], "events:", len(events), "with program and processor:", len(named))
assert bool(kept) == bool(named) == (sys.argv[1] != "off")
PY
}
XDG_CACHE_HOME="$PWD/default" venv/bin/python -c "import onnxruntime"
XDG_CACHE_HOME="$PWD/disabled" venv/bin/python -c "import onnxruntime; onnxruntime.disable_telemetry_events()"
XDG_CACHE_HOME="$PWD/off" ORT_DISABLE_TELEMETRY=1 venv/bin/python -c "import onnxruntime"
for kind in default disabled off; do kept "$kind"; done
