"""The training loop, top to bottom: a run is set up, takes its steps with what is due after each, and ends in a report.

What a step, an evaluation or a checkpoint is: run/run.py.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from semseg_app import machine
from semseg_app.data.layouts import open_dataset
from semseg_app.data.training_check import refuse_or_warn
from semseg_app.errors import UserError, memory_advice
from semseg_app.labels import LabelSpace
from semseg_app.models.adaptation import adapt
from semseg_app.training.data.randomness import derive
from semseg_app.training.data.streams import ImageDataset
from semseg_app.training.evaluation import evaluate_network
from semseg_app.training.loader import load_batches, unlabeled_images
from semseg_app.training.methods import build_method
from semseg_app.training.recipe import Recipe
from semseg_app.training.run.before import (
    evaluations_before,
    fingerprints,
    refuse_other_run,
    refuse_overlap,
    sources,
    warn_of_cutout,
    warn_of_padding,
    warn_of_random_encoder,
    warn_of_unlabeled,
)
from semseg_app.training.run.checkpoint import load_checkpoint
from semseg_app.training.run.folder import RunFolder, provenance
from semseg_app.training.run.initial_weights import initial_network
from semseg_app.training.run.launch import make_accelerator
from semseg_app.training.run.lineage import training_lineage
from semseg_app.training.run.lock import locked
from semseg_app.training.run.optimizer import make_optimizer
from semseg_app.training.run.progress import Spoken, forget_peak_memory, nowhere, tell_validation, to_stderr
from semseg_app.training.run.publisher import Publisher
from semseg_app.training.run.run import Run
from semseg_app.training.run.stop_signal import StopSignal
from semseg_app.training.run.watch import Watch

Say = Callable[[str], None]
LESS_MEMORY = "lower batch_size, view.crop or model.decoder_channels, or raise accumulate"
LESS_MEMORY_FOR_REFERENCES = "lower val_window, e.g. val_window=512"
"""The trained networks that a method brings along have a fixed size: no key of the recipe makes them smaller."""


def train(recipe: Recipe, resume: bool = False, say: Say | None = None) -> dict[str, Any]:
    """Run a recipe to its end and return the final report (also in <run folder>/report.json).

    Args:
        recipe: what to do.
        resume: go on from the newest checkpoint of the run folder, to the numbers of an uninterrupted run.
        say: takes each progress line; stderr when None.
    """
    accelerator = make_accelerator(recipe)
    say = Spoken((say or to_stderr) if accelerator.is_main_process else nowhere)
    folder = RunFolder(recipe.run_folder)
    with locked(folder.path) if accelerator.is_main_process else contextlib.nullcontext():
        with memory_advice("preparing the run", LESS_MEMORY):
            run = set_up(recipe, resume, accelerator, folder, say)
        if run.evaluation_is_due():  # the run was interrupted between its checkpoint and its evaluation
            run.evaluate()
        for step in range(run.done, recipe.schedule.steps):
            if run.has_stopped_improving():
                say(f"stopped after step {run.done}: {recipe.patience} evaluations in a row without a better val mIoU")
                break
            with memory_advice(f"step {step + 1}", LESS_MEMORY):
                run.learn(step)
            if recipe.logs_after(step):
                run.log()
            else:
                say.after_silence(f"step {run.done}/{recipe.schedule.steps}")
            if run.checkpoint_is_due():
                run.save_checkpoint()
            if run.evaluation_is_due():
                run.evaluate()
            if run.stop.requested and run.done < recipe.schedule.steps:
                say(f"stopped by signal after step {run.done}; continue with --resume")
                raise SystemExit(128 + run.stop.requested)
        return run.finish()


def set_up(recipe: Recipe, resume: bool, accelerator: Accelerator, folder: RunFolder, say: Spoken) -> Run:
    """Data, network, method and optimizer; then what an interrupted run left, where it is to go on."""
    if folder.has_run() and not resume:
        raise UserError(f"{folder.path}: already holds a run; add --resume, or choose another name= or output=")
    torch.set_num_threads(recipe.threads or machine.threads())
    cuda, main = accelerator.device.type == "cuda", accelerator.is_main_process
    forget_peak_memory(accelerator.device)

    # Data
    data = open_dataset(recipe.data.root, recipe.data.layout)
    workers, cache = recipe.data.loading(cuda)
    say(data.describe())
    labeled = ImageDataset(data, data.labeled_samples(recipe.data.labeled), with_labels=True, cache=cache)
    val = ImageDataset(data, data.samples(recipe.data.val), True, recipe.data.cache) if recipe.data.val else None
    refuse_or_warn(data, labeled.samples, say, val.samples if val else ())
    warn_of_padding(labeled, recipe, say)
    warn_of_cutout(recipe, say)
    warn_of_random_encoder(recipe, say)
    if val:
        refuse_overlap(labeled, val, recipe)

    # Network, method, optimizer
    torch.manual_seed(derive(recipe.seed, "init"))
    state = load_checkpoint(folder.checkpoints, say) if resume else None
    network, weights = initial_network(recipe.model, data.info.classes, state, say)
    spec = network.spec
    adapt(network, recipe.model.freeze, recipe.model.lora, recipe.model.activation_checkpointing)
    method = build_method(recipe.method, network, labeled)
    unlabeled = unlabeled_images(recipe, data, method, cache)
    warn_of_unlabeled(unlabeled, val, recipe, say)
    if cuda and accelerator.num_processes > 1 and recipe.sync_batch_norm:
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    if recipe.channels_last:
        method.to(memory_format=torch.channels_last)
    method.to(accelerator.device)
    optimizer = make_optimizer(recipe.optimizer, method)
    facts: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "lineage": training_lineage(recipe, method, weights),
        "data": fingerprints(recipe, data, labeled, unlabeled, val),
        "processes": accelerator.num_processes,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
    } | provenance()
    read = sources(method, unlabeled)

    # Resume
    if state:
        refuse_other_run(state, recipe, facts, read, folder)
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        if method.monitor:
            method.monitor.restore(state["monitor"], with_counts=main)
        say(f"resuming {folder.path} at step {state['step']}")
    elif resume:
        say(f"{folder.path}: nothing to resume; starting from the beginning")
    first_step = state["step"] if state else 0
    if recipe.compile:
        for part in ("encode", "decode", "head"):  # methods call them one by one
            setattr(network, part, torch.compile(getattr(network, part)))
    prepared, optimizer = accelerator.prepare(method, optimizer)
    if state and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    if main:
        folder.begin(recipe, first_step)
    accelerator.wait_for_everyone()
    best, last, evaluated_step, without_gain = evaluations_before(folder)

    say(
        f"{recipe.name}: {recipe.method.name}, {spec.architecture}/{spec.encoder}, {len(labeled)} labeled"
        + (f" + {len(unlabeled)} unlabeled" if unlabeled else "")
        + f" images, {recipe.schedule.steps} steps on {facts['device']} x{accelerator.num_processes},"
        + f" {recipe.precision}"
    )
    facts |= method.prepare([labeled, unlabeled] if unlabeled else [labeled], recipe, accelerator, say)
    publisher = Publisher(recipe, facts, folder, say) if main and recipe.push_to else None
    for role, reference in (method.references() if val else {}).items():
        assert val is not None
        with memory_advice(f"validation of the {role} before the first step", LESS_MEMORY_FOR_REFERENCES):
            tell = partial(tell_validation, say, role)
            facts[role] = evaluate_network(
                reference, val, accelerator, None, recipe.val_window, progress=tell
            ).scores.values
        say(f"  before the first step: {role} val mIoU {100 * facts[role]['miou']:.2f} %")
    labels = LabelSpace(classes=data.info.classes, palette=data.info.palette)
    batches = load_batches(recipe, accelerator, labeled, unlabeled, method, first_step, workers)
    prepared.train()
    return Run(
        recipe=recipe,
        accelerator=accelerator,
        folder=folder,
        say=say,
        data=data,
        val=val,
        spec=spec,
        weights=weights,
        network=network,
        method=method,
        prepared=prepared,
        optimizer=optimizer,
        batches=batches,
        facts=facts,
        sources=read,
        publisher=publisher,
        watch=Watch(recipe, accelerator, folder, labels, facts, first_step, say) if main else None,
        stop=StopSignal(accelerator.num_processes == 1),
        done=first_step,
        resumed_at=first_step,
        sums={name: value.to(accelerator.device) for name, value in state["sums"].items()} if state else {},
        logged_step=state["logged_step"] if state else 0,
        seconds_before=state["seconds"] if state else 0.0,
        best=best,
        evaluations=last,
        evaluated_step=evaluated_step,
        evaluated_seconds=_evaluated_seconds(state, evaluated_step),
        without_gain=without_gain,
    )


def _evaluated_seconds(state: dict[str, Any] | None, evaluated_step: int) -> float:
    """What the interrupted run had taken at its last evaluation, which may have come right after its checkpoint."""
    if state is None:
        return 0.0
    return float(state["seconds"] if evaluated_step == state["step"] else state.get("evaluated_seconds", 0.0))
