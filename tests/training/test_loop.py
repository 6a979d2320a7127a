"""The loop through its public surface: resume, kills, processes, errors."""

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.small_recipe import small_recipe
from support.two_ranks import train_on_two_ranks

from semseg_app.artifact import read_config
from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.hub.download import local_model
from semseg_app.models import load
from semseg_app.training import loop
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.loop import train
from semseg_app.training.methods.supervised import Supervised
from semseg_app.training.recipe import Recipe
from semseg_app.training.run.before import (
    warn_of_cutout,
    warn_of_padding,
    warn_of_random_encoder,
    warn_of_unlabeled,
)


def recipe(root: Path, output: Path, **changes) -> Recipe:
    """Eight steps of four images."""
    return small_recipe(root, output, **{"batch_size": 4, "evaluate_every": 4, "checkpoint_every": 2} | changes)


def weights(run: Path, link: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run / link / "model.safetensors")


def assert_equal_weights(left: Path, right: Path) -> None:
    ours, theirs = weights(left), weights(right)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def finished(tiny_dataset, tmp_path_factory) -> Path:
    """An uninterrupted run."""
    output = tmp_path_factory.mktemp("runs") / "finished"
    train(recipe(tiny_dataset, output), say=lambda line: None)
    return output


def test_a_run_leaves_what_a_user_needs(finished, tiny_dataset):
    report = json.loads((finished / "report.json").read_text())
    config = read_config(finished / "best")
    assert config.labels.classes == ["ground", "box", "disc"]
    training = config.provenance["training"]
    assert training["recipe"]["schedule"]["steps"] == 8
    assert training["data"]["labeled"]["images"] == 12
    assert torch.__version__.startswith(training["versions"]["torch"])
    assert training["val"]["miou"] == report["best"]["student"]["miou"]
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "losses" in line] == [2, 4, 6, 8]
    assert all(line["losses"]["supervised"] > 0 and line["images_per_second"] > 0 for line in lines if "losses" in line)
    assert [line["step"] for line in lines if "evaluation" in line] == [4, 8]
    assert load(finished / "best").spec.num_classes == 3


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.mark.parametrize("step", [0, 1, 3, 4, 7])
def test_killed_at_any_step_and_resumed_is_the_same_run(step, finished, tiny_dataset, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:

        def die(self: Supervised, at: int) -> None:
            if at == step:
                raise Killed

        patch.setattr(Supervised, "after_step", die)
        with pytest.raises(Killed):
            train(recipe(tiny_dataset, tmp_path / "run"), say=lambda line: None)
    # Workers, and how often it is logged, may change on the way.
    train(recipe(tiny_dataset, tmp_path / "run", log_every=4), resume=True, say=lambda line: None)
    assert_equal_weights(tmp_path / "run", finished)
    best = [json.loads((run / "report.json").read_text())["best"] for run in (finished, tmp_path / "run")]
    assert best[0] == best[1]


def test_a_resumed_run_needs_the_source_of_its_weights_no_more(finished, tiny_dataset, tmp_path, monkeypatch):
    """Killed, then the model that it started from is deleted: same end as the uninterrupted run, and same record."""
    own = tmp_path / "own"
    shutil.copytree(finished / "best", own)
    choice = {"architecture": "segformer", "encoder": "tu-test_efficientnet", "decoder_channels": 32}
    changes = {"model": choice | {"weights": str(own)}, "schedule": {"steps": 4}}
    said: list[str] = []
    train(recipe(tiny_dataset, tmp_path / "whole", **changes), say=said.append)
    assert any(line.startswith(f"weights: tiny from {own}, license unknown") for line in said)
    with monkeypatch.context() as patch:

        def die(self: Supervised, at: int) -> None:
            if at == 3:
                raise Killed

        patch.setattr(Supervised, "after_step", die)
        with pytest.raises(Killed):
            train(recipe(tiny_dataset, tmp_path / "run", **changes), say=lambda line: None)
    shutil.rmtree(own)
    train(recipe(tiny_dataset, tmp_path / "run", **changes), resume=True, say=lambda line: None)
    assert_equal_weights(tmp_path / "run", tmp_path / "whole")
    records = [json.loads((tmp_path / name / "report.json").read_text())["lineage"] for name in ("run", "whole")]
    assert records[0] == records[1]
    assert records[0]["weights"][0]["name"] == "tiny"
    assert records[0]["weights"][0]["matched"] > 50


def losses(run: Path) -> list[tuple[int, dict[str, float]]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["losses"]) for line in lines if "losses" in line]


def test_the_log_after_a_resume_is_that_of_an_uninterrupted_run(tiny_dataset, tmp_path, monkeypatch):
    """Killed after the checkpoint of step 2, in the middle of a log interval of 4."""
    changes = {"log_every": 4, "checkpoint_every": 2}
    train(recipe(tiny_dataset, tmp_path / "whole", **changes), say=lambda line: None)
    with monkeypatch.context() as patch:

        def die(self: Supervised, at: int) -> None:
            if at == 2:
                raise Killed

        patch.setattr(Supervised, "after_step", die)
        with pytest.raises(Killed):
            train(recipe(tiny_dataset, tmp_path / "run", **changes), say=lambda line: None)
    train(recipe(tiny_dataset, tmp_path / "run", **changes), resume=True, say=lambda line: None)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "run")) == 2


def test_killed_in_an_evaluation_is_the_same_run(finished, tiny_dataset, tmp_path, monkeypatch):
    """The checkpoint of a step is there before the evaluation, which may need more memory than training."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:

        def die(*arguments: object) -> None:
            raise Killed

        patch.setattr("semseg_app.training.run.run.evaluate_network", die)
        with pytest.raises(Killed):
            train(recipe(tiny_dataset, run), say=lambda line: None)
    assert sorted(path.name for path in (run / "checkpoints").iterdir())[-1] == "step-0000004.pt"
    lines: list[str] = []
    train(recipe(tiny_dataset, run), resume=True, say=lines.append)
    assert any(line.endswith("at step 4") for line in lines)
    assert_equal_weights(run, finished)
    reports = [json.loads((folder / "report.json").read_text()) for folder in (finished, run)]
    assert reports[0]["best"] == reports[1]["best"]
    assert reports[0]["last"] == reports[1]["last"]


def test_a_flipped_bit_in_the_newest_checkpoint(finished, tiny_dataset, tmp_path):
    run, lines = tmp_path / "run", list[str]()
    train(recipe(tiny_dataset, run), say=lambda line: None)
    newest = sorted((run / "checkpoints").iterdir())[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    train(recipe(tiny_dataset, run), resume=True, say=lines.append)
    assert any(f"{newest}: damaged (the checksum of " in line for line in lines)
    assert_equal_weights(run, finished)


def test_resume_refuses_other_data(tiny_dataset, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_dataset, data)
    train(recipe(data, tmp_path / "run"), say=lambda line: None)
    label = data / "labels" / "train" / "train00.png"
    pixels = np.array(Image.open(label))
    Image.fromarray(np.ascontiguousarray(pixels[:, ::-1])).save(label)
    refused("--resume: the labeled images or masks of .* have changed", recipe(data, tmp_path / "run"), resume=True)
    Image.fromarray(pixels).save(label)
    (data / "images" / "val" / "val00.png").rename(data / "images" / "val" / "val09.png")
    (data / "labels" / "val" / "val00.png").rename(data / "labels" / "val" / "val09.png")
    refused("--resume: the val images or masks of .* have changed", recipe(data, tmp_path / "run"), resume=True)


def test_two_trainings_in_one_folder(tiny_dataset, tmp_path, monkeypatch):
    """The second is refused while the first runs, also with --resume; afterwards the folder is free."""
    run, messages = tmp_path / "run", list[str]()

    def another(self: Supervised, step: int) -> None:
        for resume in (False, True):
            with pytest.raises(UserError) as error:
                train(recipe(tiny_dataset, run), resume=resume, say=lambda line: None)
            messages.append(str(error.value))

    with monkeypatch.context() as patch:
        patch.setattr(Supervised, "after_step", another)
        train(recipe(tiny_dataset, run, schedule={"steps": 1}), say=lambda line: None)
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    assert messages == [f"{run}: {owner} is training here; wait for it, stop it, or choose another output="] * 2
    train(recipe(tiny_dataset, run, schedule={"steps": 1}), resume=True, say=lambda line: None)


def test_out_of_memory_is_one_line_and_keeps_the_checkpoint(tiny_dataset, tmp_path, monkeypatch):
    def too_large(*arguments: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    monkeypatch.setattr("semseg_app.training.run.run.evaluate_network", too_large)
    refused("step 4: validation: out of memory; lower val_window", recipe(tiny_dataset, tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / "step-0000004.pt").is_file()
    monkeypatch.setattr(Supervised, "forward", too_large)
    refused("step 1: out of memory; lower batch_size", recipe(tiny_dataset, tmp_path / "other"))


def test_out_of_memory_before_the_first_step_names_what_ran_out(tiny_dataset, finished, tmp_path, monkeypatch):
    """The teacher's validation has a size of its own, which no setting of the student lowers."""

    def too_large(*arguments: object, **options: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    monkeypatch.setattr(loop, "evaluate_network", too_large)
    method = {"name": "distillation", "teacher": str(finished / "best")}
    refused(
        "^validation of the teacher before the first step: out of memory; lower val_window, e.g. val_window=512$",
        recipe(tiny_dataset, tmp_path / "run", method=method),
    )


def test_a_checkpoint_that_the_disk_does_not_take_is_one_line_and_loses_nothing(finished, tiny_dataset, tmp_path):
    output = tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        refused(r"run/checkpoints/step-0000002\.pt: larger than the file system allows", recipe(tiny_dataset, output))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((output / "checkpoints").iterdir())
    train(recipe(tiny_dataset, output), resume=True, say=lambda line: None)
    assert_equal_weights(output, finished)


def test_a_run_folder_that_cannot_be_written_to_is_one_line(tiny_dataset, tmp_path, monkeypatch):
    output = tmp_path / "run"
    output.write_text("a file in the folder's place")
    refused(
        r"/run: the run folder cannot be written to \(File exists\); choose another output=$",
        recipe(tiny_dataset, output),
    )
    refused(r"/run/x: .* \(Not a directory\); choose another output=$", recipe(tiny_dataset, output / "x"))

    def read_only(path: str, *arguments: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(os, "open", read_only)
    refused(r"\(Read-only file system\); choose another output=$", recipe(tiny_dataset, tmp_path / "other"))


def session(leader: int) -> list[int]:
    """The processes of a session that still run."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, _, its_leader, *_ = path.read_text().rpartition(")")[2].split()
            if int(its_leader) == leader and state not in "ZX":
                members.append(int(path.parent.name))
    return members


def test_sigkill_leaves_whole_folders_and_no_process(finished, tiny_dataset, tmp_path):
    """A real process, killed twice at moments of its own; what it leaves is whole, and the end is the same."""
    run = tmp_path / "run"
    data = {"root": tiny_dataset, "workers": 2}
    content = recipe(tiny_dataset, run, data=data, checkpoint_every=1, evaluate_every=1).model_dump(mode="json")
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    command = [sys.executable, "-m", "semseg_app.training", str(tmp_path / "recipe.yaml"), "--resume"]
    for checkpoints in (1, 2):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 120
        while len(list((run / "checkpoints").glob("step-*.pt"))) < checkpoints and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        assert len(session(process.pid)) > 2
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while session(process.pid):
            assert time.monotonic() < deadline, "loader processes outlive the run"
            time.sleep(0.1)
        for folder in (run / "models").glob("*"):
            if not folder.name.startswith("."):
                load(folder)
    train(recipe(tiny_dataset, run, checkpoint_every=1, evaluate_every=1), resume=True, say=lambda line: None)
    assert_equal_weights(run, finished)
    assert not list(run.rglob("*.part"))


def test_sigterm_saves_and_says_how_to_go_on(tiny_dataset, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Supervised, "after_step", lambda self, step: os.kill(os.getpid(), signal.SIGTERM) if step == 4 else None
    )
    lines: list[str] = []
    with pytest.raises(SystemExit) as stopped:
        train(recipe(tiny_dataset, tmp_path / "run", checkpoint_every=8), say=lines.append)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert lines[-1] == "stopped by signal after step 5; continue with --resume"
    monkeypatch.undo()
    train(recipe(tiny_dataset, tmp_path / "run", checkpoint_every=8), resume=True, say=lambda line: None)
    assert_equal_weights(tmp_path / "run", finished)


def test_damaged_checkpoint_falls_back_to_the_one_before(finished, tiny_dataset, tmp_path):
    lines: list[str] = []
    train(recipe(tiny_dataset, tmp_path / "run"), say=lines.append)
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:5000])
    train(recipe(tiny_dataset, tmp_path / "run"), resume=True, say=lines.append)
    assert any(f"{newest}: damaged" in line for line in lines)
    assert any("resuming" in line and line.endswith("at step 6") for line in lines)
    assert_equal_weights(tmp_path / "run", finished)


def test_a_resume_leaves_a_model_again_where_it_was_deleted(finished, tiny_dataset, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    shutil.rmtree(run / "models")
    report = train(recipe(tiny_dataset, run), resume=True, say=lambda line: None)
    assert_equal_weights(finished, run)
    assert report["best"]["student"] == {"step": 8, **report["last"]["student"]}
    assert weights(run, "best").keys() == weights(finished, "best").keys()


def test_two_ranks_are_one_process_that_accumulates(tiny_dataset, tmp_path):
    """Both see the same micro-batches, so batch statistics are equal too and gradients differ by rounding only."""
    changes = {"schedule": {"steps": 3}, "evaluate_every": 3, "checkpoint_every": 3, "accumulate": 1}
    one = recipe(tiny_dataset, tmp_path / "one", **changes | {"accumulate": 2})
    train(one, say=lambda line: None)
    assert "cpu x2" in train_on_two_ranks(recipe(tiny_dataset, tmp_path / "two", **changes), tmp_path)
    ours, theirs = weights(tmp_path / "two"), weights(tmp_path / "one")
    learned = [name for name in ours if "running_" not in name and "num_batches" not in name]
    for name in learned:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    # Five val images on two ranks: every labeled pixel is scored once, none twice.
    data = open_dataset(tiny_dataset)
    scored = read_config(tmp_path / "two" / "last").provenance["training"]["val"]["pixels"]
    assert scored == sum(int((data.read_label(sample) != 255).sum()) for sample in data.samples("val"))


def test_learning_happens(tiny_dataset, tmp_path):
    long = {"schedule": {"steps": 60}, "evaluate_every": 60, "checkpoint_every": 60, "log_every": 20}
    report = train(recipe(tiny_dataset, tmp_path / "run", **long, precision="bf16"), say=lambda line: None)
    assert report["best"]["student"]["miou"] > 0.6


def refused(match: str, chosen: Recipe, **arguments) -> None:
    with pytest.raises(UserError, match=match):
        train(chosen, say=lambda line: None, **arguments)


def test_a_crop_that_is_mostly_padding_is_said(tiny_dataset, tmp_path):
    """The photos have 64x48 pixels."""
    said = list[str]()
    data = open_dataset(tiny_dataset)
    labeled = ImageDataset(data, data.samples("train"), with_labels=True)
    for crop, warned in (((96, 120), False), ((96, 128), True)):
        said.clear()
        warn_of_padding(labeled, recipe(tiny_dataset, tmp_path, view={"crop": crop}), said.append)
        assert bool(said) == warned
    assert "has 48x64: most of each crop is padding; lower view.crop" in said[0]


def test_a_cutout_of_most_of_the_crop_is_said(tiny_dataset, tmp_path):
    said = list[str]()
    for method, warned in (("pc2seg", 1), ("supervised", 0)):
        said.clear()
        warn_of_cutout(recipe(tiny_dataset, tmp_path, method={"name": method}), said.append)
        assert len(said) == warned
        method = {"name": "pc2seg", "cutout_size": 9}
        warn_of_cutout(recipe(tiny_dataset, tmp_path, method=method), said.append)
        assert len(said) == warned
    large = {"view": {"crop": [200, 300]}, "method": {"name": "pseudoseg"}}
    warn_of_cutout(recipe(tiny_dataset, tmp_path, **large), said.append)
    assert said == []


def test_unlabeled_photos_that_are_not_read_or_scored_on_are_said(tiny_dataset, tmp_path):
    said = list[str]()
    data = open_dataset(tiny_dataset)
    train_photos, val = (ImageDataset(data, data.samples(name), with_labels=False) for name in ("train", "val"))

    def warned(unlabeled: ImageDataset | None, **changes) -> list[str]:
        said.clear()
        chosen = recipe(tiny_dataset, tmp_path, data={"root": tiny_dataset, "unlabeled": "train"}, **changes)
        warn_of_unlabeled(unlabeled, val, chosen, said.append)
        return said

    assert "data.unlabeled is not read by method supervised; choose a semi-supervised method" in warned(None)[0]
    distillation = {"name": "distillation", "teacher": "m"}
    assert "not read by method distillation; set method.use_unlabeled=true, or" in warned(None, method=distillation)[0]
    assert warned(train_photos, method={"name": "unimatch"}) == []
    assert f"holds {len(val)} of the {len(val)} photos of data.val" in warned(val, method={"name": "unimatch"})[0]


def test_a_frozen_encoder_of_random_weights_is_said(tiny_dataset, tmp_path):
    said = list[str]()
    for model, warned in (({}, False), ({"freeze": "encoder"}, True), ({"freeze": [0], "weights": "w.pth"}, False)):
        said.clear()
        given = {"architecture": "unet", "encoder": "tu-resnet10t", "weights": None} | model
        warn_of_random_encoder(recipe(tiny_dataset, tmp_path, model=given), said.append)
        assert bool(said) == warned


def test_norms_that_overflow_stop_a_run_whose_loss_is_finite(tiny_dataset, tmp_path, monkeypatch):
    """Batch norm learns by the statistics of the batch; the running ones are what a trained network answers with."""
    step = Supervised.after_step

    def overflow(self, number):
        step(self, number)
        next(tensor for name, tensor in self.network.named_buffers() if name.endswith("running_var"))[0] = torch.inf

    monkeypatch.setattr(Supervised, "after_step", overflow)
    refused("step 2: .*running_var of the student is not finite; lower opt", recipe(tiny_dataset, tmp_path / "run"))
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_errors_name_the_fix(tiny_dataset, finished, tmp_path):
    output = tmp_path / "run"
    refused("already holds a run; add --resume", recipe(tiny_dataset, finished))
    refused(
        r"--resume: optimizer\.lr was 0\.05 .* put it back, .* begin with its weights, model.weights=.*finished/last$",
        recipe(tiny_dataset, finished, optimizer={"lr": 0.1}),
        resume=True,
    )
    refused(
        "both in train and in train .*hold photos out with `semseg data split",
        recipe(tiny_dataset, output, data={"root": tiny_dataset, "val": "train"}),
    )
    refused(
        "no split or list named 'vall'; choose one of train, val",
        recipe(tiny_dataset, output, data={"root": tiny_dataset, "val": "vall"}),
    )
    refused("batch_size: 5 cannot be split .* use 4", recipe(tiny_dataset, output, batch_size=5, accumulate=2))
    fix = "loss supervised is not finite; lower optimizer.lr, add schedule.warmup or optimizer.clip_norm$"
    refused(fix, recipe(tiny_dataset, output, optimizer={"lr": 1e30}))
    if not torch.cuda.is_available():
        refused("fp16 needs a GPU", recipe(tiny_dataset, output, precision="fp16"))


def test_a_run_folder_given_for_a_model_means_its_best(finished):
    assert local_model(finished) == finished / "best"
    assert local_model(finished / "last") == finished / "last"
