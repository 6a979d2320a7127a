"""The training loop, top to bottom: data, network, method, optimizer, steps, evaluations, model folders, report."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from pydantic import ValidationError
from torch import Tensor, nn

from semseg_app.artifact import ModelConfig
from semseg_app.data.dataset import SegmentationData
from semseg_app.data.layouts import open_dataset
from semseg_app.data.pseudo_label_folder import read_manifest
from semseg_app.errors import UserError, explain
from semseg_app.files import remove_folder
from semseg_app.labels import LabelSpace
from semseg_app.models import ModelSpec, build, save_network
from semseg_app.training.data.randomness import derive
from semseg_app.training.data.streams import Pool
from semseg_app.training.evaluation import evaluate_network
from semseg_app.training.loader import feed, unlabeled_pool
from semseg_app.training.methods import build_method
from semseg_app.training.recipe import Recipe
from semseg_app.training.run.checkpoint import load_checkpoint, save_checkpoint
from semseg_app.training.run.folder import RunFolder, provenance, refuse_changed_recipe
from semseg_app.training.run.gradient_norms import gradient_norms
from semseg_app.training.run.lineage import ancestry
from semseg_app.training.run.optimizer import make_optimizer
from semseg_app.training.run.progress import (
    agreement,
    forget_peak_memory,
    nowhere,
    peak_memory_mb,
    progress_line,
    to_stderr,
)
from semseg_app.training.run.publisher import Publisher
from semseg_app.training.run.stop_signal import StopSignal


def train(recipe: Recipe, resume: bool = False, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Run a recipe to its end and return the final report (also in <run folder>/report.json).

    Args:
        recipe: what to do.
        resume: go on from the newest checkpoint of the run folder, to the numbers of an uninterrupted run.
        say: takes each progress line; stderr when None.
    """
    accelerator = _accelerator(recipe)
    main = accelerator.is_main_process
    say = (say or to_stderr) if main else nowhere
    folder = RunFolder(recipe.run_folder)
    if folder.has_run() and not resume:
        raise UserError(f"{folder.path}: already holds a run; add --resume, or choose another output=")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    forget_peak_memory(accelerator.device)

    # Data
    data = open_dataset(recipe.data.root, recipe.data.layout)
    workers, cache = recipe.data.loading(accelerator.device.type == "cuda")
    labeled = Pool(data, data.samples(recipe.data.labeled), with_labels=True, cache=cache)
    val = Pool(data, data.samples(recipe.data.val), True, recipe.data.cache) if recipe.data.val else None
    if val:
        _refuse_overlap(labeled, val, recipe)

    # Network, method, optimizer
    torch.manual_seed(derive(recipe.seed, "init"))
    choice = recipe.model.model_dump(exclude={"pretrained", "auxiliary"})
    spec = ModelSpec(**choice, num_classes=data.num_classes)
    network = build(spec, recipe.model.pretrained, recipe.model.auxiliary)
    method = build_method(recipe.method, network, labeled)
    unlabeled = unlabeled_pool(recipe, data, method, cache)
    if accelerator.device.type == "cuda" and accelerator.num_processes > 1:
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    if recipe.channels_last:
        method = method.to(memory_format=torch.channels_last)
    method.to(accelerator.device)
    optimizer = make_optimizer(recipe.optimizer, method)

    # Resume
    first_step, seconds_before = 0, 0.0
    best: dict[str, dict[str, float]] = {}
    evaluations: dict[str, dict[str, float]] = {}
    entry: dict[str, Any] = {}
    recipe_json = recipe.model_dump(mode="json")
    state = load_checkpoint(folder.checkpoints, say) if resume else None
    if state:
        # Through the model, so that keys which a newer version added have their defaults.
        try:
            before = Recipe.model_validate(state["recipe"])
        except ValidationError as error:
            raise explain(error, f"{folder.path}: --resume: its recipe is of another version of semseg") from None
        refuse_changed_recipe(before.model_dump(mode="json"), recipe_json)
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        first_step, best, evaluations, seconds_before = (state[key] for key in ("step", "best", "last", "seconds"))
        say(f"resuming {folder.path} at step {first_step}")
    elif resume:
        say(f"{folder.path}: nothing to resume; starting from the beginning")
    if recipe.compile:
        for part in ("encode", "decode", "head"):  # methods call them one by one
            setattr(network, part, torch.compile(getattr(network, part)))
    prepared, optimizer = accelerator.prepare(method, optimizer)
    if state and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    if main:
        folder.begin(recipe, first_step)

    facts: dict[str, Any] = {
        "recipe": recipe_json,
        "lineage": ancestry(recipe, network, method),
        "data": _fingerprints(recipe, data, labeled, unlabeled, val),
        "processes": accelerator.num_processes,
        "device": torch.cuda.get_device_name() if accelerator.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    } | provenance()
    say(
        f"{recipe.name}: {recipe.method.name}, {spec.architecture}/{spec.encoder}, {len(labeled)} labeled"
        + (f" + {len(unlabeled)} unlabeled" if unlabeled else "")
        + f" images, {recipe.schedule.steps} steps on {facts['device']} x{accelerator.num_processes},"
        + f" {recipe.precision}"
    )

    publisher = Publisher(recipe, facts, folder, say) if main and recipe.push_to else None
    references = method.references() if val and hasattr(method, "references") else {}
    for role, one in references.items():
        scores = evaluate_network(one, val, accelerator).matrix.result()
        facts[role] = {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy}
        say(f"  before the first step: {role} val mIoU {100 * scores.miou:.2f} %")

    steps_of_batches = feed(recipe, accelerator, labeled, unlabeled, method, first_step, workers)
    stop = StopSignal(accelerator.num_processes == 1)
    sums: dict[str, Tensor] = {}
    steps = recipe.schedule.steps
    started = logged = time.monotonic()
    logged_step = first_step
    prepared.train()
    for step in range(first_step, steps):
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * recipe.schedule.factor(step)
        for part, batch in enumerate(next(steps_of_batches)):
            # Dropout and the method's own draws belong to a batch, whichever rank or part of a step it falls to.
            place = part * accelerator.num_processes + accelerator.process_index
            torch.manual_seed(derive(recipe.seed, "step", step, place))
            last_part = part == recipe.accumulate - 1
            with _nothing() if last_part else accelerator.no_sync(prepared):
                losses = prepared(batch, step)
                if recipe.log_gradient_norms and last_part and recipe.logs_after(step):
                    scale = accelerator.scaler.get_scale() if accelerator.scaler is not None else 1.0
                    norms = gradient_norms(losses, network.parameters(), scale)
                accelerator.backward(torch.stack(list(losses.values())).sum() / recipe.accumulate)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() / recipe.accumulate
        if recipe.optimizer.clip_norm or hasattr(method, "clip_gradients"):
            accelerator.unscale_gradients()  # of fp16, and once a step only
        if hasattr(method, "clip_gradients"):
            method.clip_gradients()
        if recipe.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(parameters, recipe.optimizer.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(step)
        done = step + 1

        if recipe.logs_after(step):
            now = time.monotonic()
            rate = (done - logged_step) / (now - logged)
            means = {name: float(value) / (done - logged_step) for name, value in sums.items()}
            _refuse_non_finite(means, done, folder)
            entry = {
                "step": done,
                "losses": {name: round(value, 6) for name, value in means.items()},
                "lr": optimizer.param_groups[0]["lr"],
                "images_per_second": round(rate * recipe.batch_size, 2),
                "memory_mb": peak_memory_mb(accelerator.device),
            }
            if recipe.log_gradient_norms:
                entry["gradient_norms"] = {name: float(f"{norm:.4g}") for name, norm in norms.items()}
            if method.monitor:
                counts = accelerator.reduce(method.monitor.take().to(accelerator.device), "sum")
                entry["pseudo_labels"], warnings = method.monitor.judge(counts, done - logged_step, done)
                for warning in warnings:
                    say(f"warning: step {done}: {warning}")
            if main:
                folder.log(entry)
            say(progress_line(entry, steps, (steps - done) / rate))
            sums, logged, logged_step = {}, now, done

        if val and (done % recipe.evaluation_interval == 0 or done == steps):
            evaluations = {}
            for role, one in method.networks().items():
                threshold = method.monitor.threshold if method.monitor else None
                evaluation = evaluate_network(one, val, accelerator, threshold)
                scores = evaluation.matrix.result()
                evaluations[role] = {
                    "miou": scores.miou,
                    "pixel_accuracy": scores.pixel_accuracy,
                } | evaluation.pseudo_labels
                say(f"  step {done}: {role} val mIoU {100 * scores.miou:.2f} %" + agreement(evaluation.pseudo_labels))
                improved = scores.miou > best.get(role, {}).get("miou", -1.0)
                if improved:
                    best[role] = {"step": done, **evaluations[role]}
                if main:
                    config = _model_config(recipe, spec, data, facts, role, done, scores.to_json(data.info.classes))
                    primary = role == next(iter(method.networks()))
                    model = _save_model(folder, config, one, role, done, "" if primary else f"-{role}", improved)
                    if publisher and primary and improved:
                        publisher.offer(model, scores.miou)
            if main:
                folder.prune()
                folder.log({"step": done, "evaluation": evaluations})
            logged += time.monotonic() - now if done % recipe.log_every == 0 else 0.0

        if done % recipe.checkpoint_interval == 0 or done == steps or stop.requested:
            if main:
                seconds = seconds_before + time.monotonic() - started
                scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
                save_checkpoint(
                    folder.checkpoints,
                    done,
                    {
                        "recipe": recipe_json,
                        "method": method.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "scaler": scaler,
                        "best": best,
                        "last": evaluations,
                        "seconds": seconds,
                    },
                )
            accelerator.wait_for_everyone()
        if stop.requested and done < steps:
            say(f"stopped by signal after step {done}; continue with --resume")
            raise SystemExit(128 + stop.requested)
    stop.restore()

    report = facts | {
        "name": recipe.name,
        "steps": steps,
        "seconds": round(seconds_before + time.monotonic() - started, 1),
        "memory_mb": peak_memory_mb(accelerator.device),
        "best": best,
        "last": evaluations,
        "pseudo_labels": entry.get("pseudo_labels"),
        "model": str(folder.path / "best") if best else None,
    }
    if main:
        if not val:  # nothing to select by: the last weights are the model
            for role, one in method.networks().items():
                config = _model_config(recipe, spec, data, facts, role, steps, {})
                primary = role == next(iter(method.networks()))
                _save_model(folder, config, one, role, steps, "" if primary else f"-{role}", improved=False)
            report["model"] = str(folder.path / "last")
            folder.prune()
        report["step_seconds"] = round(folder.step_seconds(recipe.batch_size), 6)
        folder.write_report(report)
    if publisher:
        publisher.finish()
    accelerator.wait_for_everyone()
    say(f"done in {report['seconds']:.0f} s; model folder: {report['model']}")
    return report


def _accelerator(recipe: Recipe) -> Accelerator:
    cuda = torch.cuda.is_available()
    if recipe.precision == "fp16" and not cuda:
        raise UserError("precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:  # accelerate keeps the precision of the first run in a process; a second run may have another
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=not cuda,
        mixed_precision="no" if recipe.precision == "fp32" else recipe.precision,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    if accelerator.num_processes != world:
        raise UserError(
            f"launched as {world} processes, but accelerate sees {accelerator.num_processes}; check its config"
        )
    for name, size in (("batch_size", recipe.batch_size), ("unlabeled_batch_size", recipe.unlabeled_batch_size)):
        parts = world * recipe.accumulate
        if size and size % parts:
            near = max(parts, round(size / parts) * parts)
            raise UserError(
                f"{name}: {size} cannot be split over {world} processes x accumulate {recipe.accumulate}; use {near}"
            )
    return accelerator


def _refuse_overlap(labeled: Pool, val: Pool, recipe: Recipe) -> None:
    shared = {sample.image for sample in labeled.samples} & {sample.image for sample in val.samples}
    if shared:
        raise UserError(
            f"data: {len(shared)} images are both in {recipe.data.labeled} and in {recipe.data.val} "
            f"(e.g. {min(shared)}); a score on training images means nothing"
        )


def _fingerprints(
    recipe: Recipe, data: SegmentationData, labeled: Pool, unlabeled: Pool | None, val: Pool | None
) -> dict[str, Any]:
    pools = {"labeled": labeled, "unlabeled": unlabeled, "val": val}
    lists = {
        name: {"images": len(pool), "hash": data.fingerprint(pool.samples)} for name, pool in pools.items() if pool
    }
    folder = getattr(recipe.method, "pseudo_labels", None)
    written = {"pseudo_labels": read_manifest(folder).model_dump()} if folder else {}
    terms = {"license": data.info.license, "source": data.info.source}
    return {"name": data.info.name, **terms, **lists, **written}


def _model_config(
    recipe: Recipe,
    spec: ModelSpec,
    data: SegmentationData,
    facts: dict[str, Any],
    role: str,
    step: int,
    scores: dict[str, Any],
) -> ModelConfig:
    training = facts | {"role": role, "step": step, "val": scores}
    labels = LabelSpace(classes=data.info.classes, palette=data.info.palette)
    return ModelConfig(name=recipe.name, model=spec, labels=labels, provenance={"training": training})


def _save_model(
    folder: RunFolder, config: ModelConfig, network: Any, role: str, step: int, suffix: str, improved: bool
) -> Path:
    model = folder.models / f"{role}-{step:07d}"
    if model.exists():  # evaluated again after a resume: the same weights
        remove_folder(model)
    save_network(model, network, config)
    folder.link(f"last{suffix}", model)
    if improved:
        folder.link(f"best{suffix}", model)
    return model


def _refuse_non_finite(means: dict[str, float], step: int, folder: RunFolder) -> None:
    wrong = [name for name, value in means.items() if not math.isfinite(value)]
    if wrong:
        raise UserError(
            f"step {step}: loss {' and '.join(wrong)} is not finite; lower optimizer.lr, add schedule.warmup or "
            f"optimizer.clip_norm. The last good checkpoint is in {folder.checkpoints}"
        )


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...
