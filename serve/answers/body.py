"""From a segmented image to the body of an answer, in any row of FORMATS."""

import io
import json
import re
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Engine
from semseg_app.serve.answers.formats import FORMATS, ZIP, Answered, Rendering
from semseg_app.serve.answers.options import BadOption, Options
from semseg_app.serve.scheduling.segmentation import Segmentation


def render(form: str, segmentation: Segmentation, engine: Engine, model: str, options: Options) -> Any:
    """Bytes for pictures and raw classes, otherwise what becomes JSON.

    Args:
        form: a name in FORMATS.
        segmentation: already filtered by `options`.
        engine: the engine that answered.
        model: the name under which the model is served.
        options: `transform`, `simplify` and `opacity` are used here.

    BadOption when the image cannot be answered in this format, such as outlines with too many corners.
    """
    asked = Rendering(segmentation, engine, model, options.opacity, options.affine(), options.simplify)
    try:
        return FORMATS[form].render(asked)
    except UserError as error:
        raise BadOption(str(error)) from None


def packed(form: str, answered: Sequence[Answered]) -> tuple[bytes, str, dict[str, str]]:
    """The body of an answer, its media type and its headers. Several pictures become a ZIP, JSON one document."""
    row = FORMATS[form]
    if row.several is not None:
        return _json(row.several(answered)), row.media_type, {}
    if len(answered) == 1:
        image = answered[0]
        size = {"X-Image-Height": str(image.height), "X-Image-Width": str(image.width)}
        return image.content, row.media_type, size if row.size_beside else {}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored: pictures do not get smaller
        for index, image in enumerate(answered):
            stem = image.name.rsplit(".", 1)[0]
            size_in_name = f"-{image.width}x{image.height}" if row.size_beside else ""
            archive.writestr(f"{index:03}{'-' + stem if stem else ''}{size_in_name}{row.suffix}", image.content)
    return buffer.getvalue(), ZIP, {}


def harmless_name(given: str | None) -> str:
    """The last part of a stranger's file name: letters, digits, dot, dash and underscore, at most 80 characters and the
    bytes of a file name in a ZIP.
    """
    last = re.split(r"[\\/]", given or "")[-1]
    return re.sub(r"[^\w.-]+", "_", last).lstrip(".")[:80].encode()[:200].decode(errors="ignore")


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_list).encode()


def _as_list(array: np.ndarray) -> Any:
    """One outline becomes a list when its turn comes. A million small lists made before would keep Python's lock for a
    second; a function in Python lets other threads run each time that it is called, which `np.ndarray.tolist` does not.
    """
    return array.tolist()
