#!/usr/bin/env bash
# A quarter of an hour on a machine with a GPU and no network; docs/gpu.md says how.
#
#   benchmarks/gpu.sh --pack FOLDER [--data CAMVID] [--python 3.12] [--limit 64]     where there is a network
#   benchmarks/gpu.sh FOLDER OUT [--minutes 12] [--steps 1000] [--work FOLDER] [--tiny]     where the GPU is
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}

if [ "${1:-}" = --pack ]; then
    exec "$python" "$project/benchmarks/gpu_pack.py" "${@:2}"
fi
if [ $# -lt 2 ]; then
    sed -n 's/^#   //p' "$0" >&2
    exit 2
fi

shopt -s nullglob
wheels=("$1"/wheels/*.whl "$1"-2/wheels/*.whl)
if [ ${#wheels[@]} -gt 0 ]; then
    # A folder in front of the machine's own packages, not a venv: where python3 is itself of a venv, one made from it
    # does not see the packages there.
    site=$(mktemp -d)
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --target "$site" \
        "${wheels[@]}"
    PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$project/benchmarks/gpu_parts.py" "$@"
