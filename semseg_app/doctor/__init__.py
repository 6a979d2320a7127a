"""Is this installation sound? Every part is tried, not only looked up: what crashes, crashes in a process of its own.

The doctor imports nothing beyond the standard library and `packaging` in its own process, so that it can speak where
numpy, torch or ONNX Runtime cannot.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from semseg_app.doctor import engines, packages, system
from semseg_app.doctor.diagnosis import Check
from semseg_app.errors import UserError

Group = tuple[str, Callable[[], Iterator[Check]]]

GROUPS: tuple[Group, ...] = (
    ("python", packages.python),
    ("packages", packages.extras),
    ("driver", system.driver),
    ("torch", engines.torch),
    ("onnxruntime", engines.onnxruntime),
    ("openvino", engines.openvino),
    ("tensorrt", engines.tensorrt),
    ("processor", system.processor),
    ("memory", system.memory),
    ("disk", system.disk),
)


def examine(model: Path | None = None) -> Iterator[Check]:
    """Check everything, and then a model folder or .onnx file with every engine that it has. Takes seconds.

    Never raises: a check that fails in an unforeseen way is a finding too.
    """
    groups = list(GROUPS)
    if model is not None:
        groups.append(("model", partial(engines.model, model)))
    for name, checks in groups:
        try:
            yield from checks()
        except UserError as error:  # a model that cannot be opened; the message says what to do
            yield Check(name, "error", str(error))
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            fix = "install semseg-app in a fresh environment"
            yield Check(name, "error", f"could not be examined: {reason}", fix)
