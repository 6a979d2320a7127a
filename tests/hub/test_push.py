"""Publishing: what is refused before anything is sent, what lands on the Hub, and what survives an interruption."""

import io
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hub_stand_in import SPACE_CARD, Fault, StandIn, wait_for
from huggingface_hub import ModelCard
from PIL import Image
from support.hub_machines import Machine, last_line

from semseg_app.errors import UserError
from semseg_app.hub.bundle import Choices, gather


def test_one_private_commit_with_all_of_it(
    hub: StandIn, machine: Callable[..., Machine], model: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    for seed, score in ((3, 0.6123), (4, 0.6)):
        report = {
            "recipe": {"seed": seed, "method": {"name": "supervised"}},
            "data": {"val": {"hash": "ab"}},
            "best": {"student": {"miou": score}},
        }
        (tmp_path / f"run{seed}").mkdir()
        (tmp_path / f"run{seed}" / "report.json").write_text(json.dumps(report))
    (tmp_path / "bench").mkdir()
    for name, content in (("results.md", "| model | p50 ms |\n"), ("results.json", "{}"), ("pareto.png", "png")):
        (tmp_path / "bench" / name).write_text(content)
    options = ["--data", tiny_dataset, "--benchmark", tmp_path / "bench", "--runs", tmp_path / "run3"]
    options += ["--runs", tmp_path / "run4", "--base-model", "ann/teacher"]
    here = machine()
    done = here.semseg("push", model, "ann/rgb", *options, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    repo = hub.repo("ann/rgb")
    assert repo.private
    assert answer["private"]
    assert repo.titles == ["initial commit", "Publish a model"]
    assert answer["commit"] == repo.refs["main"]
    files = repo.files()
    samples = {f"samples/{number}.jpg" for number in (1, 2, 3)}
    measured = {f"benchmark/{name}" for name in ("results.md", "results.json", "pareto.png")}
    proof = {"manifest.json", "onnx/model.onnx", ".eval_results/semseg.yaml", "preprocessor_config.json", "README.md"}
    assert files.keys() == {".gitattributes", "config.json", "model.safetensors"} | proof | samples | measured
    for name in ("model.safetensors", "onnx/model.onnx"):
        assert files[name] == (model / name).read_bytes()
    assert Image.open(io.BytesIO(files["samples/1.jpg"])).size == (128, 48)  # photo and overlay
    config = json.loads(files["config.json"])
    assert config["provenance"]["hub"] == {"repo": "ann/rgb"}
    assert b"/home/ann" not in b"".join(files.values())  # neither paths nor command lines of this machine
    assert config["provenance"]["training"]["recipe"]["data"]["root"] == "rgb"
    (scores,) = yaml.safe_load(files[".eval_results/semseg.yaml"])
    assert scores["dataset"] == {"id": "ann/rgb", "task_id": "semantic-segmentation"}
    assert scores["value"] == 61.23

    # A second push replaces what the first one left, and what is equal is not sent again.
    sent = hub.count("PUT /lfs/")
    assert here.semseg("push", model, "ann/rgb").returncode == 0
    assert not any(name.startswith(("samples/", "benchmark/")) for name in repo.files())
    assert hub.count("PUT /lfs/") == sent
    assert len(repo.titles) == 3
    assert here.semseg("push", model, "ann/rgb", "--public").returncode == 0  # nothing new to commit
    assert not repo.private
    assert len(repo.titles) == 3
    assert "is public already; add --public" in last_line(here.semseg("push", model, "ann/rgb"))


@pytest.mark.parametrize(
    "edit",
    [
        lambda card: card.replace(b"## ", b"Ask Ann before you use it.\n\n## ", 1),
        lambda card: card.replace(b"tags:", b"tags:\n- mine", 1),
        lambda card: b"written by hand",
        lambda card: SPACE_CARD + b"\nAsk Ann before you use it.\n\n---\n",
    ],
    ids=["text", "front matter", "no front matter", "below what the Hub wrote"],
)
def test_a_card_that_was_edited_on_the_hub_is_not_replaced(hub: StandIn, machine, model: Path, edit) -> None:
    here = machine()
    assert here.semseg("push", model, "ann/rgb").returncode == 0
    repo = hub.repo("ann/rgb")
    edited = edit(repo.files()["README.md"])
    assert edited != repo.files()["README.md"]
    repo.commit(repo.files() | {"README.md": edited}, "Edit the card")
    done = here.semseg("push", model, "ann/rgb")
    assert (done.returncode, len(repo.titles)) == (2, 3)
    assert "README.md there was edited, or not written by this version of semseg" in last_line(done)
    assert repo.files()["README.md"] == edited

    # What the line says to do helps.
    repo.commit({name: content for name, content in repo.files().items() if name != "README.md"}, "Move the card")
    repo.commit(repo.files() | {"NOTES.md": edited}, "Move the card")
    assert here.semseg("push", model, "ann/rgb").returncode == 0
    assert repo.files()["NOTES.md"] == edited


def test_a_card_with_a_license_alone_is_what_the_hub_makes(hub: StandIn, machine, model: Path) -> None:
    hub.add("ann/rgb", {"README.md": b"---\nlicense: apache-2.0\n---\n"}, private=True)
    assert machine().semseg("push", model, "ann/rgb").returncode == 0


def test_the_card_says_what_must_be_said(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["name"] = "a | <b>"
    config["provenance"]["training"]["lineage"] = {
        "weights": [
            {"name": "mit_b0.imagenet", "role": "encoder of the teacher t", "license": "nvidia-x", "link": "http://l"}
        ],
        "teachers": [
            {
                "name": "t",
                "by": "distillation",
                "architecture": "segformer",
                "encoder": "mit_b0",
                "sha256": "0" * 64,
                "repo": "ann/t",
            }
        ],
    }
    (model / "config.json").write_text(json.dumps(config))
    card = ModelCard(gather(model, "ann/rgb", Choices())["README.md"].decode())
    assert card.data.to_dict() == {
        "library_name": "semseg_app",
        "license": "other",
        "license_name": "nvidia-x",
        "license_link": "http://l",
        "pipeline_tag": "image-segmentation",
        "metrics": ["mean_iou"],
        "tags": ["semantic-segmentation", "onnx", "knowledge-distillation"],
        "base_model": ["ann/t"],
        "base_model_relation": "finetune",
        "datasets": ["ann/rgb"],
    }
    for said in (
        "# a \\| &lt;b&gt;\n",
        "| 0 | red | #c80000 |",
        "mIoU **61.23 %**",
        "One run, seed 3",
        "| red | 50.00 | 60.00 | 100.00 |",
        "license: cc-by-4.0, from ann/rgb",
        "[ann/t](https://huggingface.co/ann/t): segformer on mit\\_b0, by distillation",
        "| mit\\_b0.imagenet | encoder of the teacher t | nvidia-x | http://l |",
        "| `onnx/model.onnx` | 640x480 | 1.2 | a processor, 2 threads |",
    ):
        assert said in card.text, said


def test_what_may_not_be_published(model: Path) -> None:
    manifest = json.loads((model / "manifest.json").read_text())
    entry = manifest["exports"]["onnx/model.onnx"]

    def refused(message: str, repo: str = "ann/rgb", **choices: object) -> None:
        with pytest.raises(UserError, match=message):
            gather(model, repo, Choices(**choices))

    def vouch(**changes: object) -> None:
        content = manifest | {"exports": {"onnx/model.onnx": entry | changes}}
        (model / "manifest.json").write_text(json.dumps(content))

    vouch(verdict="rejected", reasons=["mIoU changes by -3.00 points"])
    refused(r"onnx/model\.onnx: rejected: mIoU changes by -3\.00 points\. It is not published")
    vouch(sha256="0" * 64)
    refused(r"onnx/model\.onnx: is not the file that was verified; run `semseg verify")
    vouch(source_sha256="0" * 64)
    refused("is not the file that was verified")
    vouch()
    refused(r"model-int8\.onnx: missing; run `semseg export .* --precision int8`", precisions=["int8"])
    refused("choose from fp32, fp16, int8", precisions=["fp8"])
    refused("--dataset rgb: an id on the Hub", dataset="rgb")
    bench = model.parent / "bench"
    bench.mkdir()
    refused("holds no results.md and results.json", benchmark=bench)
    (bench / "results.md").write_text("| /home/ann/m |")
    (bench / "results.json").write_text(json.dumps({"rows": [{"model": "/home/ann/m"}]}))
    refused("names /home/ann/m, and would publish that path", benchmark=bench)
    config = json.loads((model / "config.json").read_text())
    training = config["provenance"]["training"]

    def told(**changes: object) -> None:
        content = config | {"provenance": {"training": training | changes}}
        (model / "config.json").write_text(json.dumps(content))

    told(lineage={})
    refused("no license given")
    told(data={"name": "photos"})
    refused(r"which license has the training data \(photos\)\? Add --data-license")
    told(lineage={"weights": [{"name": "w", "role": "encoder", "license": None}]})
    refused(r"w \(encoder\): the license of these weights is not known", license="mit")
    assert b"license: cc-by-nc-4.0" in gather(model, "ann/rgb", Choices(weights_license="cc-by-nc-4.0"))["README.md"]
    (model / "onnx" / "model.onnx").unlink()
    told()
    refused(r"model\.onnx: missing; run `semseg export")
    draft = gather(model, "ann/rgb", Choices(weights_only=True))
    assert draft.keys() == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
        ".eval_results/semseg.yaml",
    }
    assert b"nothing is verified yet" in draft["README.md"]


def test_rights(hub: StandIn, machine: Callable[..., Machine], model: Path) -> None:
    assert "needs a token; run `hf auth login`" in last_line(machine("a", token=None).semseg("push", model, "ann/rgb"))
    line = last_line(machine("b", token="hf_reader").semseg("push", model, "ann/rgb"))
    assert "your token may not do that" in line
    assert "use a write token" in line
    assert "namespace 'bob'" in last_line(machine("c").semseg("push", model, "bob/rgb"))
    assert not hub.repos


def test_interrupted_it_goes_on_where_it_was(hub: StandIn, machine: Callable[..., Machine], model: Path) -> None:
    here = machine()
    command = ("-m", "semseg_app.cli", "push", str(model), "ann/rgb")
    hub.faults.append(Fault("PUT /lfs/", "hang", after=1))
    process = here.start(*command)
    wait_for(lambda: hub.count("hung PUT") and hub.large)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(hub.repo("ann/rgb").files()) == [".gitattributes"]  # nothing, rather than half of it
    (arrived,) = hub.large
    done = here.run(*command)
    assert done.returncode == 0, done.stderr
    assert hub.count(f"^PUT /lfs/{arrived}") == 1
    assert hub.repo("ann/rgb").titles == ["initial commit", "Publish a model"]


def test_a_stumbling_hub(hub: StandIn, machine: Callable[..., Machine], model: Path) -> None:
    hub.faults += [Fault("POST /api/repos/create", 503), Fault("PUT /lfs/", "drop"), Fault("POST .*/commit/", "lose")]
    done = machine().semseg("push", model, "ann/rgb")
    assert done.returncode == 0, done.stderr
    assert hub.repo("ann/rgb").titles == ["initial commit", "Publish a model"]  # the lost answer makes no second one
    assert not any(fault.times for fault in hub.faults)


def test_what_fails_for_good_is_one_line(hub: StandIn, machine: Callable[..., Machine], model: Path) -> None:
    hub.faults.append(Fault("PUT /lfs/", 403, times=9))
    assert "your token may not do that (out of order)" in last_line(machine().semseg("push", model, "ann/rgb"))
    assert list(hub.repo("ann/rgb").files()) == [".gitattributes"]


def test_what_arrives_otherwise_is_found_out(hub: StandIn, machine: Callable[..., Machine], model: Path) -> None:
    hub.replaced["model.safetensors"] = b"\x02\0\0\0\0\0\0\0{}" + b"\1" * 50_000
    line = last_line(machine().semseg("push", model, "ann/rgb", "--public"))
    assert "model.safetensors is not on the Hub as it was sent" in line
    assert hub.repo("ann/rgb").private
