"""What lies in MODEL/tensorrt: engines, and beside each the JSON that says what it is and which machine runs it.

TensorRT calls a compiled engine a plan. It runs with the very version that built it, on the kind of GPU that it was
built for, at the shapes of its profiles; so the name of the file and its JSON say all three. No TensorRT here.
"""

from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from semseg_app.errors import UserError, explain
from semseg_app.files import sha256
from semseg_app.labels import LabelSpace

FOLDER = Path("tensorrt")
SUFFIX = ".engine"
Binding = Literal["tensorrt", "tensorrt_rtx"]
Precision = Literal["fp32", "fp16", "int8"]
PREFERRED: tuple[Precision, ...] = ("fp16", "int8", "fp32")
"""Which one a folder with several runs: fp16 is nearly free of loss, int8 is what a user asks for by name."""


class Shape(NamedTuple):
    """A batch of photos."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, batch {self.batch}"


class Profile(NamedTuple):
    """The shapes of one optimization profile: the smallest, the one it is fastest at, the largest."""

    smallest: Shape
    fastest: Shape
    largest: Shape

    @property
    def is_bucket(self) -> bool:
        """Whether it holds one size of photo alone, so that a CUDA graph of it serves every call."""
        return self.smallest[1:] == self.largest[1:]

    def holds(self, height: int, width: int) -> bool:
        """Whether photos of this size run in it."""
        return (
            self.smallest.height <= height <= self.largest.height and self.smallest.width <= width <= self.largest.width
        )


class Gpu(NamedTuple):
    """What an engine is bound to."""

    name: str
    capability: str
    """Compute capability: "8.9"."""


class Plan(BaseModel):
    """The JSON beside an engine."""

    model_config = ConfigDict(frozen=True)

    format_version: int = 1
    name: str
    labels: LabelSpace
    precision: Precision
    binding: Binding
    version: str
    """Version of the binding. An engine runs with this one only."""
    gpu: str | None
    """The GPU that it was built on and for; None = built ahead of time, for every GPU of `capabilities`."""
    capabilities: list[str]
    profiles: list[Profile]
    graph: str
    """The ONNX file in the model folder that it was built from."""
    graph_sha256: str
    source_sha256: str | None = None
    """Hash of the weights that the graph was made of; None where an earlier release built the engine."""
    sha256: str
    """Hash of the engine."""
    key: str
    """Hash of all that decides what is built: an engine with an equal key need not be built again."""
    layers: dict[str, int]
    """Precision -> number of convolutions and matrix products that were found to run in it."""
    layers_read_from: Literal["engine inspector", "builder log"]
    seconds: float
    """What building took."""

    @property
    def target(self) -> str:
        """The GPUs that it runs on, for messages."""
        return self.gpu or " and ".join(f"compute capability {capability}" for capability in self.capabilities)

    def runs_on(self, gpu: Gpu) -> bool:
        """Whether this is the GPU, or one of the GPUs, that it was built for."""
        return gpu.capability in self.capabilities and self.gpu in (None, gpu.name)


def read_plan(engine: Path) -> Plan:
    """The JSON beside an engine file. UserError when it is missing or invalid."""
    path = engine.with_suffix(".json")
    try:
        plan = Plan.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{engine}: has no {path.name} beside it; build it with `semseg export`") from None
    except ValidationError as error:
        raise explain(error, path) from None
    if plan.format_version != 1:
        raise UserError(f"{path}: format {plan.format_version} is newer than this program reads; upgrade semseg-app")
    return plan


def find_plans(folder: Path) -> dict[Path, Plan]:
    """The engines of a model folder, sorted by name."""
    files = sorted((folder / FOLDER).glob(f"*{SUFFIX}"))
    return {path: read_plan(path) for path in files if not path.name.startswith(".")}


def check_graph_of(engine: Path, plan: Plan) -> None:
    """UserError when an engine was built from an earlier graph than lies beside it."""
    graph = engine.resolve().parent.parent / plan.graph
    if graph.is_file() and sha256(graph) != plan.graph_sha256:
        raise UserError(f"{engine}: was built from an earlier {plan.graph}; run `semseg export --to tensorrt` again")


def choose_plan(plans: dict[Path, Plan], gpu: Gpu, versions: dict[Binding, str]) -> Path:
    """The engine of a model folder that runs here, the preferred precision first.

    Args:
        plans: the engines, at least one.
        gpu: the one to run on.
        versions: of the bindings that are installed.

    Raises:
        UserError: no engine fits; the line names the targets of the existing ones and how to build one.
    """
    fitting = [path for path, plan in plans.items() if plan.runs_on(gpu) and versions.get(plan.binding) == plan.version]
    if not fitting:
        there = "; ".join(f"{path.name} ({plan.binding} {plan.version}, {plan.target})" for path, plan in plans.items())
        installed = ", ".join(f"{binding} {version}" for binding, version in versions.items())
        raise UserError(
            f"{next(iter(plans)).parent}: no engine for {gpu.name} (compute capability {gpu.capability}) with "
            f"{installed}; there is {there}. Build one here with `semseg export --to tensorrt`"
        )
    return min(fitting, key=lambda path: PREFERRED.index(plans[path].precision))


def pick_profile(profiles: list[Profile], height: int, width: int) -> int | None:
    """The profile for photos of this size: the bucket of exactly this size, else the smallest that holds it."""
    fitting = [index for index, profile in enumerate(profiles) if profile.holds(height, width)]
    if not fitting:
        return None
    return min(fitting, key=lambda index: (not profiles[index].is_bucket, _area(profiles[index].largest), index))


def _area(shape: Shape) -> int:
    return shape.height * shape.width
