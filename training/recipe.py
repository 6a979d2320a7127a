"""A recipe: one YAML file that describes one run completely. Unknown or contradictory keys are refused.

semseg train RECIPE key=value ...        dotted overrides, e.g. optimizer.lr=0.01
"""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, PositiveFloat, ValidationError, field_validator, model_validator

from semseg_app import machine
from semseg_app.data.dataset import read_yaml
from semseg_app.errors import UserError
from semseg_app.model_spec import ModelSpec, NetworkChoice
from semseg_app.models.adaptation import LoraSection
from semseg_app.models.registry import ARCHITECTURES, architecture
from semseg_app.training.data.weak_augmentation import WeakView
from semseg_app.training.methods import METHODS, MethodConfig
from semseg_app.training.presets import recipe_file as recipe_file
from semseg_app.training.recipe_keys import explained
from semseg_app.training.section import Section
from semseg_app.yaml_text import RepeatedKey, load_yaml

DEFAULT_METHOD = next(iter(METHODS))


class MoreUnlabeled(Section):
    """Photos of another dataset that join the unlabeled ones; its masks, if it has any, are not read."""

    root: Path
    """A dataset folder, a published dataset, or with layout: photos any folder of photos."""
    layout: str = "auto"
    """As data.layout."""
    split: str = "unlabeled"
    """The split or list whose photos join."""
    image_labels: Path | None = None
    """Their table of image labels, in this root and in the names of the run's classes; belongs to
    method.image_labels."""


class DataSection(Section):
    """Which images."""

    root: Path
    """A dataset folder, or a published dataset (VOC, Cityscapes, ADE20K, COCO-Stuff, CamVid)."""
    layout: str = "auto"
    """How the folder is laid out: auto (looks), folder, photos, or a layout of docs/data.md (voc, cityscapes, ade20k,
    coco-stuff, ...). Name it where auto takes a folder for something else."""
    labeled: str = "train"
    """A split ("train") or a list in splits/ ("1_8-labeled")."""
    unlabeled: str | None = None
    """A split or a list; only semi-supervised methods read it."""
    more_unlabeled: tuple[MoreUnlabeled, ...] = ()
    """Unlabeled photos of other roots, e.g. [{root: data/coco, split: train}]: one pool with those of `unlabeled`."""
    val: str | None = "val"
    """What is evaluated while training; null to skip."""
    workers: int | None = Field(default=None, ge=0)
    """Loader processes; null = none on a CPU, up to 8 with a GPU."""
    cache: bool | None = None
    """Keep decoded images in memory; null = when they stay under 4 GiB. Loader processes read theirs from disk."""

    @model_validator(mode="after")
    def _workers_read_from_disk(self) -> "DataSection":
        if self.cache and self.workers:
            raise ValueError("cache: true needs workers: 0; loader processes read their images from disk")
        return self

    def loading(self, cuda: bool) -> tuple[int, bool | None]:
        """How many loader processes, and whether the images to train on are kept in memory (None = where they fit)."""
        workers = (min(8, machine.cores()) if cuda else 0) if self.workers is None else self.workers
        return workers, False if workers else self.cache


def _architectures(schema: dict[str, Any]) -> None:
    schema["enum"] = list(ARCHITECTURES)


class ModelSection(NetworkChoice):
    """Which network."""

    model_config = ConfigDict(allow_inf_nan=False)

    architecture: str = Field(default="deeplabv3plus", json_schema_extra=_architectures)
    """The decoder and how it meets the encoder; docs/train.md says which is for what."""
    weights: str | None = "imagenet"
    """What the network starts from: imagenet (an installed package with weights, else the Hub), a file of weights
    (.safetensors, .pth), a model folder, or its Hub id; null = random weights. What cannot be had is an error."""
    mean: tuple[float, float, float] | None = None
    """Mean of RGB in [0, 1], which the network subtracts itself; null = as the weights expect it."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """Deviation of RGB in [0, 1], by which the network divides itself; null = as the weights expect it."""
    auxiliary: tuple[int, ...] = ()
    """Encoder stages with an auxiliary head while training, e.g. [-2]."""
    freeze: Literal["encoder"] | tuple[int, ...] = ()
    """What learns nothing: the encoder, or some of its stages, e.g. [0, 1]."""
    lora: LoraSection | None = None
    """Low-rank adaptation of a transformer encoder, which is frozen otherwise; merged when a model folder is saved."""
    activation_checkpointing: bool = False
    """Compute the encoder's blocks again in the backward pass instead of keeping their activations."""

    @field_validator("architecture")
    @classmethod
    def _is_known(cls, name: str) -> str:
        architecture(name)
        return name

    @field_validator("mean", "std")
    @classmethod
    def _of_zero_to_one(cls, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if values is not None and max(values) > 1:
            scaled = ", ".join(f"{value / 255:.4g}" for value in values)
            raise ValueError(f"belongs to pixels from 0 to 1, not from 0 to 255; divided by 255 it is [{scaled}]")
        return values

    def spec(self, num_classes: int) -> ModelSpec:
        """What to build for data of so many classes."""
        content = self.model_dump(include=set(ModelSpec.model_fields), exclude_none=True)
        return ModelSpec(**content, num_classes=num_classes)


class OptimizerSection(Section):
    """Parameter groups: encoder, the rest; weight decay spares norms, biases and position tables if asked."""

    name: Literal["sgd", "adamw", "adam"] = "sgd"
    """sgd for convolutional networks, adamw for transformers; adam adds weight decay to the gradient instead."""
    lr: float = Field(default=0.01, gt=0)
    """Learning rate of the encoder at the top of the schedule. The first key to change when the loss does not fall (try
    a third) or falls slowly (try three times); adamw takes about a hundredth of what sgd takes."""
    head_lr_factor: float = Field(default=1.0, gt=0)
    """Everything but the encoder learns at lr times this; 10 is usual where the encoder starts from weights."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """The encoder's layers learn at lr times this to the power of their distance from the decoder, e.g. 0.75."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of sgd; adamw and adam do not read it."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Pull of the weights toward 0; 0.01 to 0.05 is usual for adamw."""
    decay_norms: bool = True
    """False: no decay on norms, biases and position tables, as transformers are trained."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Gradients are scaled down to this L2 norm; null = never. Set it, to 1 or 10, where the loss jumps."""


class ScheduleSection(Section):
    """Linear warm-up, then lr * (1 - step/steps)^power, never below `floor` times lr, and down to `min_lr`; or an
    exponential decay."""

    steps: int = Field(default=1000, ge=1)
    """Length of the run, in steps of the optimizer: each shows batch_size labeled photos."""
    warmup: int = Field(default=0, ge=0)
    """Steps in which the learning rate grows linearly from near 0; raise it where the first steps diverge."""
    power: float = Field(default=0.9, ge=0)
    """Of the decay; 1 is linear, 0 keeps the rate constant."""
    gamma: float | None = Field(default=None, gt=0, lt=1)
    """In place of that decay an exponential one: the rate is multiplied by gamma after every `gamma_steps`. null = the
    decay by `power`."""
    gamma_steps: int = Field(default=1, ge=1)
    """Steps between two cuts of the exponential decay, e.g. those of one pass over the labeled photos."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """Fraction of lr below which the decay does not go."""
    min_lr: float = Field(default=0.0, ge=0)
    """Rate that every group of parameters ends at: (lr - min_lr) * (1 - step/steps)^power + min_lr, as mmcv's poly
    policy computes it; the groups' own rates then meet at the end."""

    @model_validator(mode="after")
    def _fits(self) -> "ScheduleSection":
        if self.warmup >= self.steps:
            raise ValueError(f"warmup ({self.warmup}) must be shorter than steps ({self.steps})")
        if self.floor and self.min_lr:
            raise ValueError("floor and min_lr both say where the rate ends; leave one out")
        return self

    def rate(self, base: float, step: int) -> float:
        """The learning rate at `step` (from 0) of parameters whose rate begins at `base`."""
        if step < self.warmup:
            return base * (step + 1) / (self.warmup + 1)
        if self.gamma is not None:
            factor = self.gamma ** (step // self.gamma_steps)
        else:
            factor = (1 - step / self.steps) ** self.power
        return max(self.floor * base, (base - self.min_lr) * factor + self.min_lr)


class Recipe(Section):
    """One run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Letters, digits, dots, hyphens and underscores; names the run folder and the model."""
    aims_at: str = ""
    """For a preset: the published row that it is after."""
    output: Path | None = None
    """Run folder; default runs/<name>."""
    license: str | None = None
    """License of the trained model, e.g. apache-2.0; for its card on the Hub."""
    push_to: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    """user/repo on the Hub: every best model becomes a commit there, private, in the background."""
    seed: int = Field(default=0, ge=0)
    """Of every draw: the same seed gives the same run. Repeat a comparison with several."""
    data: DataSection
    """Which images."""
    model: ModelSection = ModelSection()
    """Which network, and what it starts from."""
    view: WeakView = WeakView()
    """How a photo becomes a training crop."""
    method: MethodConfig = METHODS[DEFAULT_METHOD].config()
    """How the network learns: one of the methods below, by its name."""
    optimizer: OptimizerSection = OptimizerSection()
    """How weights follow gradients."""
    schedule: ScheduleSection = ScheduleSection()
    """How long, and how the learning rate falls."""
    batch_size: int = Field(default=8, ge=1)
    """Labeled images per step, over all processes. Lower it, or raise accumulate, when memory runs out."""
    unlabeled_batch_size: int | None = Field(default=None, ge=1)
    """Unlabeled images per step; null = batch_size."""
    accumulate: int = Field(default=1, ge=1)
    """Split every step into this many passes, to save memory."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Of the forward and backward pass (autocast): bf16 needs no loss scaling and is the fastest that recent processors
    and GPUs have; fp16 is for older GPUs, fp32 for comparisons bit by bit."""
    sync_batch_norm: bool = True
    """With several GPUs: batch norms count the images of all of them. False = each GPU its own, as in the runs of
    PseudoSeg and PC2Seg."""
    channels_last: bool = True
    """Keep activations in the order [N, H, W, C], which is faster for convolutions; the numbers are the same."""
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, faster steps in long runs."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; null leaves torch's choice."""
    log_every: int = Field(default=20, ge=1)
    """Steps between two lines of log.jsonl and of progress."""
    log_gradient_norms: bool = False
    """Log the norm of each loss's own gradient over the network too: for the last micro-batch of a logged step, on the
    first process. One more backward pass for each loss, in logged steps only."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Steps between evaluations on data.val; null = ten times per run, but at least a minute apart, and at the end."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations in a row without a better val mIoU of what the method delivers; null = never."""
    tracking: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Where scores, losses and overlays go besides log.jsonl and report.html, e.g. [tensorboard]."""
    val_window: int | None = Field(default=None, ge=64, multiple_of=32)
    """Longest side of what the network sees at once in an evaluation, in pixels: larger photos are shown in overlapping
    windows. Lower it when validation runs out of memory. null = photos of up to 4 megapixels (4,194,304 pixels) whole,
    larger ones in windows of 1024."""
    checkpoint_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; null = with every evaluation."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        if self.log_gradient_norms and self.compile:
            raise ValueError("log_gradient_norms takes several backward passes, which compile cannot; turn one off")
        lowest = self.optimizer.lr * min(1.0, self.optimizer.head_lr_factor)
        if self.schedule.min_lr > lowest:
            raise ValueError(f"schedule.min_lr ({self.schedule.min_lr:g}) is above the rate to begin with ({lowest:g})")
        if self.patience is not None and self.data.val is None:
            raise ValueError("patience needs data.val: without scores no run can stop early")
        self.method.check(self)
        return self

    def logs_after(self, step: int) -> bool:
        """Whether `step` (from 0) ends with a line in the log."""
        return (step + 1) % self.log_every == 0 or step + 1 == self.schedule.steps

    @property
    def run_folder(self) -> Path:
        return self.output or Path("runs") / self.name

    @property
    def evaluation_interval(self) -> int:
        return self.evaluate_every or max(self.schedule.steps // 10, 1)

    @property
    def checkpoint_interval(self) -> int:
        return self.checkpoint_every or self.evaluation_interval


def load_recipe(source: str, overrides: list[str]) -> Recipe:
    """A YAML file or a preset's name, with `key=value` overrides. A UserError names the key and the right one."""
    path = recipe_file(source)
    content = read_yaml(path)
    for override in overrides:
        set_key(content, *parsed_override(override))
    recipe = checked_recipe(content, path)
    beside = path.parent / recipe.data.root
    if not recipe.data.root.exists() and beside.exists():
        raise UserError(
            f"{path}: data.root: no folder {recipe.data.root} here; paths of a recipe begin where you run semseg, so "
            f"write {beside}, or run it in {path.parent}"
        )
    return recipe


def parsed_override(override: str) -> tuple[str, Any]:
    """key=value of the command line -> the dotted key, and the value as YAML reads it."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"{override!r}: an override is written key=value, e.g. optimizer.lr=0.01")
    if not text.strip():  # YAML reads it as null, and a variable of the shell that is not set leaves it behind
        raise UserError(f"{override!r}: has no value; write {key.strip()}=null for none")
    try:
        return key.strip(), load_yaml(text)
    except RepeatedKey as error:
        raise UserError(f"{key}={text}: {error.problem}") from None
    except yaml.YAMLError:
        raise UserError(f"{key}={text}: the value is not valid YAML") from None


def checked_recipe(content: dict[str, Any], path: Path) -> Recipe:
    """The recipe that a file's content describes. A UserError names the file, the key and the right one."""
    method = content.get("method")
    without_name = isinstance(method, dict) and "name" not in method
    if without_name:
        content = {**content, "method": {"name": DEFAULT_METHOD, **content["method"]}}
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        fault = explained(error, path, Recipe)
        if without_name and str(fault).startswith(f"{path}: unknown key method."):
            end = "" if str(fault).endswith("?") else "."
            raise UserError(f"{fault}{end} Without method.name the method is {DEFAULT_METHOD}.") from None
        raise fault from None


def set_key(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, such as optimizer.lr, to a value; a section as a value replaces the whole section."""
    *sections, last = key.split(".")
    for section in sections:
        if content.get(section) is None:  # a section that is off, as in `kd: null`, can be turned on by a key
            content[section] = {}
        content = content[section]
        if not isinstance(content, dict):
            raise UserError(f"{key}: {section} is a value, not a section")
    content[last] = value
