"""A run between its set-up and its report: steps, log lines, checkpoints, evaluations."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from semseg_app.artifact import ModelConfig
from semseg_app.artifact.lineage import Lineage
from semseg_app.data.dataset import SegmentationData
from semseg_app.errors import UserError, memory_advice
from semseg_app.labels import LabelSpace
from semseg_app.metrics.scores import Scores, class_iou
from semseg_app.models import ModelSpec, SegmentationNetwork, non_finite
from semseg_app.training.contracts import Method
from semseg_app.training.data.randomness import derive
from semseg_app.training.data.streams import Batch, ImageDataset
from semseg_app.training.evaluation import evaluate_network
from semseg_app.training.recipe import Recipe
from semseg_app.training.run.checkpoint import save_checkpoint
from semseg_app.training.run.examples import Examples
from semseg_app.training.run.folder import RunFolder
from semseg_app.training.run.gradient_norms import gradient_norms
from semseg_app.training.run.progress import Spoken, agreement, peak_memory_mb, progress_line, tell_validation
from semseg_app.training.run.publisher import Publisher
from semseg_app.training.run.stop_signal import StopSignal
from semseg_app.training.run.watch import Watch

LESS_MEMORY_FOR_SCORES = (
    "lower val_window, e.g. val_window=512, and continue with --resume, or lower model.decoder_channels"
)
EVALUATIONS_APART = 60.0
"""Least seconds between two evaluations of a recipe that leaves evaluate_every out."""


@dataclass
class Run:
    """What a run holds from its set-up to its report."""

    recipe: Recipe
    accelerator: Accelerator
    folder: RunFolder
    say: Spoken
    data: SegmentationData
    val: ImageDataset | None
    spec: ModelSpec
    weights: Lineage
    """Of what the network started from."""
    network: SegmentationNetwork
    method: Method
    prepared: nn.Module
    """The method as accelerate wraps it."""
    optimizer: torch.optim.Optimizer
    batches: Iterator[Iterator[Batch]]
    facts: dict[str, Any]
    """Provenance: recipe, lineage, data, versions, hardware."""
    sources: dict[str, str]
    """Hashes of what is read beside photos and masks."""
    publisher: Publisher | None
    watch: Watch | None
    """On the main process."""
    stop: StopSignal
    done: int
    """Steps that are behind us."""
    resumed_at: int
    """`done` when this process began."""
    sums: dict[str, Tensor]
    """Losses, summed since the last log line, which was written after `logged_step`."""
    logged_step: int
    seconds_before: float
    """What earlier parts of an interrupted run took."""
    best: dict[str, dict[str, float]]
    evaluations: dict[str, dict[str, float]]
    evaluated_step: int
    evaluated_seconds: float
    """What the run had taken at its last evaluation."""
    without_gain: int
    """Evaluations in a row without a better score of what the method delivers."""
    entry: dict[str, Any] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    logged: float = field(default_factory=time.monotonic)

    def learn(self, step: int) -> None:
        """One step of the optimizer, over all of its micro-batches."""
        recipe, accelerator, method = self.recipe, self.accelerator, self.method
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.schedule.rate(group["base_lr"], step)
        for part, batch in enumerate(next(self.batches)):
            # Dropout and the method's own draws belong to a batch, whichever rank or part of a step it falls to.
            number = part * accelerator.num_processes + accelerator.process_index
            torch.manual_seed(derive(recipe.seed, "step", step, number))
            last_part = part == recipe.accumulate - 1
            with contextlib.nullcontext() if last_part else accelerator.no_sync(self.prepared):
                losses: dict[str, Tensor] = self.prepared(batch, step)
                if recipe.log_gradient_norms and last_part and recipe.logs_after(step):
                    scale = accelerator.scaler.get_scale() if accelerator.scaler is not None else 1.0
                    self.norms = gradient_norms(losses, self.network.parameters(), scale)
                accelerator.backward(torch.stack(list(losses.values())).sum() / recipe.accumulate)
            for name, value in losses.items():
                share = value.detach() / recipe.accumulate
                self.sums[name] = self.sums[name] + share if name in self.sums else share
        accelerator.unscale_gradients()  # fp16's, once in a step
        method.clip_gradients()
        if recipe.optimizer.clip_norm:
            learned = [parameter for parameter in method.parameters() if parameter.requires_grad]
            nn.utils.clip_grad_norm_(learned, recipe.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        method.after_step(step)
        self.done = step + 1

    def log(self) -> None:
        """One line of log.jsonl and of progress: means over the steps since the last one."""
        recipe, monitor = self.recipe, self.method.monitor
        now, steps = time.monotonic(), self.done - self.logged_step
        timed = self.done - max(self.logged_step, self.resumed_at)
        rate = timed / (now - self.logged)
        means = {name: float(value) / steps for name, value in self.sums.items()}
        self._refuse_diverged(means)
        self.entry = {
            "step": self.done,
            "losses": {name: round(value, 6) for name, value in means.items()},
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": round(rate * recipe.batch_size, 2),
            "memory_mb": peak_memory_mb(self.accelerator.device),
        }
        if recipe.log_gradient_norms:
            self.entry["gradient_norms"] = {name: float(f"{norm:.4g}") for name, norm in self.norms.items()}
        if monitor:
            counts = self.accelerator.reduce(monitor.take().to(self.accelerator.device), "sum")
            self.entry["pseudo_labels"], warnings = monitor.judge(counts, steps, self.done)
            if warnings:
                self.entry["warnings"] = warnings
            for warning in warnings:
                self.say(f"warning: step {self.done}: {warning}")
        if self.watch:
            self.watch.log(self.entry)
        self.say(progress_line(self.entry, recipe.schedule.steps, (recipe.schedule.steps - self.done) / rate))
        self.sums, self.logged, self.logged_step = {}, now, self.done

    def checkpoint_is_due(self) -> bool:
        """With every checkpoint interval, at the end, and when the run was asked to stop."""
        at_the_end = self.done == self.recipe.schedule.steps
        return self.done % self.recipe.checkpoint_interval == 0 or at_the_end or bool(self.stop.requested)

    def save_checkpoint(self) -> None:
        """Everything that the next step needs, for --resume."""
        self._refuse_diverged({name: float(value) for name, value in self.sums.items()})
        accelerator, monitor = self.accelerator, self.method.monitor
        watched = monitor.state() if monitor else None
        if watched:
            watched["counts"] = accelerator.reduce(watched["counts"].to(accelerator.device), "sum").cpu()
        if accelerator.is_main_process:
            state = {
                "recipe": self.recipe.model_dump(mode="json"),
                "model": self.spec.model_dump(mode="json"),
                "weights": self.weights.model_dump(mode="json"),
                "data": self.facts["data"],
                "sources": self.sources,
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
                "monitor": watched,
                "sums": self.sums,
                "logged_step": self.logged_step,
                "seconds": self.seconds(),
                "evaluated_seconds": self.evaluated_seconds,
            }
            save_checkpoint(self.folder.checkpoints, self.done, state)
        accelerator.wait_for_everyone()

    def seconds(self) -> float:
        """What the run has taken so far, its earlier parts included."""
        return self.seconds_before + time.monotonic() - self.started

    def evaluation_is_due(self) -> bool:
        """With every evaluation interval and at the end, where there is something to validate on.

        An interval that the recipe leaves out is stretched to a minute, by the clock of the first process.
        """
        if self.val is None or self.evaluated_step == self.done:
            return False
        if self.done == self.recipe.schedule.steps:
            return True
        if self.done == 0 or self.done % self.recipe.evaluation_interval:
            return False
        if self.recipe.evaluate_every is not None:
            return True
        passed = torch.tensor(self.seconds() - self.evaluated_seconds, device=self.accelerator.device)
        return float(broadcast(passed)) >= EVALUATIONS_APART

    def has_stopped_improving(self) -> bool:
        """Whether `patience` evaluations in a row brought nothing better."""
        return self.recipe.patience is not None and self.without_gain >= self.recipe.patience

    def evaluate(self) -> None:
        """Score every network of the method on data.val, and keep each as a model folder."""
        assert self.val is not None
        self._refuse_diverged({})
        began = time.monotonic()
        self.evaluations, self.evaluated_step, by_class = {}, self.done, dict[str, Any]()
        monitor, classes = self.method.monitor, self.data.info.classes
        examples, evaluated = Examples(len(self.val)), dict[str, Scores]()
        for role, network in self.method.networks().items():
            with memory_advice(f"step {self.done}: validation", LESS_MEMORY_FOR_SCORES):
                threshold = monitor.threshold if monitor else None
                evaluation = evaluate_network(
                    network,
                    self.val,
                    self.accelerator,
                    threshold,
                    self.recipe.val_window,
                    examples if self.watch and not evaluated else None,
                    partial(tell_validation, self.say, f"step {self.done}: {role}"),
                )
            scores = evaluated[role] = evaluation.scores
            miou, known = scores.values["miou"], scores.values | evaluation.pseudo_labels
            self.evaluations[role] = known
            if evaluation.by_class:
                by_class[role] = evaluation.by_class
            confident = agreement(evaluation.pseudo_labels)
            self.say(f"  step {self.done}: {role} val mIoU {100 * miou:.2f} %{confident}")
            improved = miou > self.best.get(role, {}).get("miou", -1.0)
            if role == self._primary_role():
                self.without_gain = 0 if improved else self.without_gain + 1
            if improved:
                self.best[role] = {"step": self.done, **known}
            if self.watch:
                model = self._save_model(role, network, scores.to_json(classes), improved)
                if self.publisher and improved and role == self._primary_role():
                    self.publisher.offer(model, miou)
        if self.watch:
            self.folder.prune()
            entry: dict[str, Any] = {
                "step": self.done,
                "evaluation": self.evaluations,
                "class_iou": {role: class_iou(scores, classes) for role, scores in evaluated.items()},
            }
            if by_class:
                entry["pseudo_label_classes"] = by_class
            took = self.seconds(), time.monotonic() - began
            self.watch.evaluated(entry, evaluated[self._primary_role()], examples, self.val.samples, took)
        self.logged += time.monotonic() - began
        self.evaluated_seconds = self.seconds()

    def _primary_role(self) -> str:
        return next(iter(self.method.networks()))

    def _save_model(self, role: str, network: SegmentationNetwork, scores: dict[str, Any], improved: bool) -> Path:
        training = self.facts | {"role": role, "step": self.done, "val": scores}
        labels = LabelSpace(classes=self.data.info.classes, palette=self.data.info.palette)
        provenance = {"training": training}
        config = ModelConfig(name=self.recipe.name, model=self.spec, labels=labels, provenance=provenance)
        model = self.folder.save_model(f"{role}-{self.done:07d}", network, config)
        suffix = "" if role == self._primary_role() else f"-{role}"
        self.folder.link(f"last{suffix}", model)
        if improved:
            self.folder.link(f"best{suffix}", model)
        return model

    def _refuse_diverged(self, losses: dict[str, float]) -> None:
        """UserError where a loss or a network is not finite any more."""
        wrong = [f"loss {name}" for name, value in losses.items() if not math.isfinite(value)]
        for role, network in self.method.networks().items():
            if not wrong and (broken := non_finite(network.state_dict())):
                wrong = [f"{broken} of the {role}"]
        if wrong:
            kept = f". The last good checkpoint is in {self.folder.checkpoints}" if self.folder.has_run() else ""
            raise UserError(
                f"step {self.done}: {' and '.join(wrong)} is not finite; lower optimizer.lr, add schedule.warmup or "
                f"optimizer.clip_norm{kept}"
            )

    def finish(self) -> dict[str, Any]:
        """Write and return the report."""
        self.stop.restore()
        early = self.done < self.recipe.schedule.steps
        if early and self.sums and self.done > self.resumed_at:
            self.log()  # the steps since the last line
        report = self.facts | {
            "name": self.recipe.name,
            "steps": self.done,
            "stopped_early": early,
            "seconds": round(self.seconds(), 1),
            "memory_mb": peak_memory_mb(self.accelerator.device),
            "best": self.best,
            "last": self.evaluations,
            "pseudo_labels": self.entry.get("pseudo_labels"),
            "pseudo_label_classes": next(
                (entry.get("pseudo_label_classes", {}) for entry in reversed(self.folder.evaluations())), {}
            ),
            "model": str(self.folder.path / ("best" if self.val else "last")),
        }
        if self.accelerator.is_main_process:
            if not self.val:  # nothing to select by: the last weights are the model
                for role, network in self.method.networks().items():
                    self._save_model(role, network, {}, improved=False)
                self.folder.prune()
            report["step_seconds"] = round(self.folder.step_seconds(self.recipe.batch_size), 6)
            self.folder.write_report(report)
        if self.watch:
            self.watch.finish()
        if self.publisher:
            self.publisher.finish()
        self.accelerator.wait_for_everyone()
        self.say(f"done in {report['seconds']:.0f} s; model folder: {report['model']}")
        return report
