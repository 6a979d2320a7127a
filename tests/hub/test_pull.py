"""Models of the Hub, by their id: what is fetched, what is trusted, what is said when it cannot be had."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hub_stand_in import Fault, StandIn
from PIL import Image
from support.hub_machines import Machine

from semseg_app.inference.engines.open import open_engine

LOOK = """
import json, sys
from semseg_app.artifact import read_config
from semseg_app.errors import UserError
from semseg_app.hub.download import local_model
answers = []
for model in sys.argv[1:]:
    try:
        folder = local_model(model)
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
        answers.append([read_config(folder).name, files])
    except UserError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""
"""Name and files of each model, or the line that says why not."""

COMPLETE = """
import json, os, sys
from huggingface_hub import constants, hf_hub_download
from semseg_app.hub.download import fetch
answers = []
for number, names in enumerate(json.loads(sys.argv[1])):
    cache = os.path.join(constants.HF_HOME, str(number))
    for name in names:
        hf_hub_download("ann/rgb", name, cache_dir=cache)
    folder = fetch("ann/rgb", cache_dir=cache)
    answers.append(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")))
print(json.dumps(answers))
"""
"""The files of a model for each list of those that another program had fetched."""

FILES = ["config.json", "manifest.json", "model.safetensors", "onnx/model.onnx"]


def look(machine: Machine, *models: str, **environment: str) -> list:
    result = machine.run("-c", LOOK, *models, **environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_verbs_take_an_id_and_a_revision_and_work_offline(
    hub: StandIn, machine: Callable[..., Machine], published: dict[str, bytes], model: Path, photo: Path
) -> None:
    repo = hub.add("ann/rgb", published)
    pinned = repo.refs["main"]
    here = machine()
    done = here.semseg("predict", "ann/rgb", photo, "-o", "first", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "rgb"
    mask = np.asarray(Image.open(here.place / "first" / "masks" / "photo.png"))
    expected = open_engine(model, "onnxruntime").infer(np.asarray(Image.open(photo))[None]).classes[0]
    np.testing.assert_array_equal(mask, expected)

    config = json.loads(published["config.json"]) | {"name": "newer"}
    repo.commit(published | {"config.json": json.dumps(config).encode()}, "newer")
    assert look(here, "ann/rgb", f"ann/rgb@{pinned}") == [["newer", FILES], ["tiny", FILES]]

    hub.requests.clear()
    offline = {"HF_HUB_OFFLINE": "1"}
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert look(here, "ann/rgb", f"ann/rgb@{pinned}", **offline) == [["newer", FILES], ["tiny", FILES]]
    assert look(here, "ann/rgb", f"ann/rgb@{pinned}", **unreachable) == [["newer", FILES], ["tiny", FILES]]
    done = here.semseg("predict", "ann/rgb", photo, "-o", "second", "--revision", pinned)  # no network is needed
    assert done.returncode == 0, done.stderr
    assert not [request for request in hub.requests if "agent-harnesses" not in request]

    empty = machine("empty")
    assert "not in the cache" in look(empty, "ann/rgb", **offline)[0]
    assert "cannot be reached" in look(empty, "ann/rgb", **unreachable)[0]


def test_what_other_programs_left_in_the_cache_is_completed(
    hub: StandIn, machine: Callable[..., Machine], published: dict[str, bytes]
) -> None:
    """They fetch file by file, such as from_pretrained of transformers."""
    hub.add("ann/rgb", published)
    here = machine()
    left = [["config.json"], ["config.json", "model.safetensors"], FILES[:3], FILES]
    said = here.python(COMPLETE, json.dumps(left))
    assert json.loads(said) == [FILES] * len(left)
    assert hub.count("GET /ann/rgb/resolve/") == len(left) * len(FILES), "what was there was fetched again"
    whole = str(here.place / "hf" / "3")  # the Hub may not be there to tell whether it is
    assert look(here, "ann/rgb", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_CACHE=whole) == [["tiny", FILES]]


def test_a_model_of_transformers_is_pulled_too(
    hub: StandIn, machine: Callable[..., Machine], published: dict[str, bytes]
) -> None:
    files = {"config.json": b'{"model_type": "segformer"}', "preprocessor_config.json": b"{}"}
    hub.add("bob/theirs", files | {"model.safetensors": b"0"})
    here = machine()
    (line,) = here.mistakes(("verify", "bob/theirs"))
    assert "this needs a model folder of ours" in line
    assert not (here.place / "theirs").exists()
    done = here.semseg("pull", "bob/theirs", "--json")
    assert json.loads(done.stdout) == {"folder": "theirs", "name": "bob/theirs", "exports": {}}, done.stderr
    assert {path.name for path in (here.place / "theirs").iterdir()} == {*files, "model.safetensors"}


def test_only_what_belongs_to_a_model_is_fetched(
    hub: StandIn, machine: Callable[..., Machine], published: dict[str, bytes]
) -> None:
    names = ("pytorch_model.bin", "onnx/../../../escaped", "/etc/escaped", "run.py", "ONNX/x.onnx")
    strange = dict.fromkeys(names, b"!")
    hub.add("bob/rgb", published | strange)
    here = machine()
    done = here.semseg("pull", "bob/rgb", "mine", "--json")
    assert json.loads(done.stdout) == {"folder": "mine", "name": "tiny", "exports": {"onnx/model.onnx": "passed"}}
    mine = here.place / "mine"
    assert {path.relative_to(mine).as_posix(): path.read_bytes() for path in mine.rglob("*.*")} == published
    assert not [path for path in mine.rglob("*") if path.is_symlink()]
    assert not [request for request in hub.requests if any(name in request for name in ("bin", "escaped", "run.py"))]
    twice, missing, unwell, local = here.mistakes(
        ("pull", "bob/rgb", "mine"),
        ("evaluate", "bob/none", "--data", "x"),
        ("doctor", "bob/none"),
        ("evaluate", "mine", "--data", "x", "--revision", "abc"),
    )
    assert "mine: exists already" in twice
    assert "no folder bob/none here; on the Hub, bob/none: the Hub has no such model" in missing
    assert "on the Hub, bob/none: the Hub has no such model" in unwell
    assert "--revision abc: is for models of the Hub" in local


def test_what_is_not_as_it_says_is_refused(
    hub: StandIn, machine: Callable[..., Machine], published: dict[str, bytes], make_graph: Callable[..., Path]
) -> None:
    config, manifest = (json.loads(published[name]) for name in ("config.json", "manifest.json"))

    def changed(content: dict, **changes: object) -> bytes:
        return json.dumps(content | changes).encode()

    labels = config["labels"]
    rejected = manifest["exports"]["onnx/model.onnx"] | {"verdict": "rejected", "reasons": ["it is wrong"]}
    hub.add("x/foreign", {"config.json": b'{"model_type": "segformer"}', "model.safetensors": b"0"})
    hub.add("x/empty", {"README.md": b"nothing"})
    hub.add("x/palette", published | {"config.json": changed(config, labels=labels | {"palette": [[0, 0, 999]] * 3})})
    hub.add(
        "x/classes", published | {"config.json": changed(config, labels={"classes": ["a"], "palette": [[0, 0, 0]]})}
    )
    hub.add("x/wide", published | {"config.json": changed(config, model=config["model"] | {"decoder_channels": 10**9})})
    hub.add("x/exchanged", published | {"onnx/model.onnx": published["onnx/model.onnx"] + b"\0"})
    hub.add("x/retrained", published | {"model.safetensors": published["model.safetensors"] + b"\0"})
    hub.add("x/list", published | {"manifest.json": b"[]"})
    hub.add("x/half", {name: content for name, content in published.items() if not name.endswith(".onnx")})
    hub.add("x/rejected", published | {"manifest.json": changed(manifest, exports={"onnx/model.onnx": rejected})})
    here = machine()
    names = ("foreign", "empty", "palette", "classes", "wide", "exchanged", "retrained", "list", "half")
    answers = look(here, *(f"x/{name}" for name in names))
    for answer, reason in zip(
        answers,
        (
            "a segformer model of transformers; this needs a model folder of ours",
            r"it needs config\.json and model\.safetensors or onnx/model\.onnx",
            "less than or equal to 255",
            "num_classes is 3, but labels names 1",
            "decoder_channels",
            r"onnx/model\.onnx is not the file that manifest\.json vouches for",
            r"was not exported from the model\.safetensors beside it",
            "not a manifest",
            r"onnx/model\.onnx is in manifest\.json but not there",
        ),
        strict=True,
    ):
        assert isinstance(answer, str), reason
        assert re.search(reason, answer), answer
    Image.new("RGB", (4, 4)).save(here.place / "p.png")
    (line,) = here.mistakes(("predict", "x/rejected", "p.png", "-o", "out"))
    assert "rejected when it was exported: it is wrong" in line


def test_sizes_are_not_believed(hub: StandIn, machine: Callable[..., Machine], published: dict[str, bytes]) -> None:
    hub.add("x/huge", published)
    hub.sizes["manifest.json"] = 9 * 2**20
    here = machine()
    hub.requests.clear()
    assert "manifest.json has 9 MiB, more than the 8 that it may have" in look(here, "x/huge")[0]
    assert not hub.count("resolve/")
    hub.sizes.clear()
    hub.add("x/bomb", published)
    hub.bombs["manifest.json"] = gzip.compress(bytes(64 * 2**20))
    assert "sends more than the" in look(here, "x/bomb")[0]
    assert sum(path.stat().st_size for path in (here.place / "hf").rglob("*") if path.is_file()) < 8 * 2**20


def test_a_link_out_of_the_cache_is_refused(
    hub: StandIn, machine: Callable[..., Machine], published: dict[str, bytes], tmp_path: Path
) -> None:
    hub.add("ann/rgb", published)
    here = machine()
    look(here, "ann/rgb")
    (link,) = (here.place / "hf").rglob("snapshots/*/config.json")
    (tmp_path / "elsewhere.json").write_bytes(published["config.json"])
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere.json")
    assert "points out of the cache" in look(here, "ann/rgb")[0]


def test_every_reason_has_its_own_line(
    hub: StandIn, machine: Callable[..., Machine], published: dict[str, bytes]
) -> None:
    hub.add("ann/gated", published, gated=True)
    hub.add("ann/closed", published, private=True)
    hub.add("ann/open", published)
    answers = look(machine("bob", token="hf_bob"), "ann/gated", "ann/closed", "ann/none", "ann/open@gone", "a/b.onnx")
    assert f"gated; ask for access on {hub.url}/ann/gated" in answers[0]
    assert answers[1].endswith(answers[2].partition("on the Hub, ann/none")[2])  # a stranger cannot tell them apart
    assert "private and your token may not see it" in answers[1]
    assert "has no revision gone" in answers[2 + 1]
    assert "a/b.onnx: no such model folder or .onnx file" in answers[4]
    assert look(machine("ann"), "ann/gated", "ann/closed") == [["tiny", FILES]] * 2
    assert "your token is not valid" in look(machine("old", token="hf_revoked"), "ann/open")[0]


def test_a_stumbling_hub_is_asked_again(
    hub: StandIn, machine: Callable[..., Machine], published: dict[str, bytes]
) -> None:
    weights = bytes(24 * 2**20)  # the client keeps what came in pieces of 10 MiB
    hub.add("ann/rgb", published | {"model.safetensors": weights, "manifest.json": b"{}"})
    hub.faults += [
        Fault(r"GET /api/models/ann/rgb$", 503),
        Fault(r"/tree/", 502),
        Fault(r"GET .*model\.safetensors", "cut"),
        Fault(r"GET .*model\.onnx", 500),
    ]
    assert look(machine(), "ann/rgb") == [["tiny", FILES]]
    assert hub.count(r"GET .*model\.safetensors") == 2  # the second asks for the rest
    assert hub.ranges == ["bytes=10485760-"]
    hub.faults.append(Fault("GET /api/models", 503, times=9))
    said = machine("new").python(
        "from semseg_app.hub import client, download\n"
        "client.WAITS = (0.01, 0.01)\n"
        "try: download.fetch('ann/rgb')\n"
        "except Exception as error: print(error)"
    )
    assert "is out of order (status 503)" in said
    assert hub.faults[-1].times == 6
