"""What travels inside an exported graph: metadata_props["semseg_app"], a JSON object."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from semseg_app.errors import UserError, explain
from semseg_app.labels import LabelSpace

KEY = "semseg_app"


class GraphMetadata(BaseModel):
    """What an engine needs to know of a graph; further keys are provenance and are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    format_version: int
    name: str
    labels: LabelSpace
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    stride: PositiveInt = 1
    """Photos are padded, right and bottom, to multiples of it."""
    logits: str | None = None
    """The value in the graph that is enlarged and read, float32 `[N, C, h, w]`; h and w divide the padded sides. None =
    the graph does not say, and its own outputs are used."""
    source_sha256: str | None = None
    """Of the model.safetensors that it was made from. None = the graph does not say."""


def parse(path: Path, properties: dict[str, str]) -> GraphMetadata:
    """The metadata of the graph in `path`. UserError when it is not one of ours, or newer than this program."""
    if KEY not in properties:
        raise UserError(
            f"{path}: names no classes (metadata {KEY!r} is missing); make it with `semseg export`. A graph of another "
            "program with a description beside it runs with --engine onnxruntime alone"
        )
    try:
        metadata = GraphMetadata.model_validate_json(properties[KEY])
    except ValidationError as error:
        raise explain(error, f"{path} (metadata {KEY!r})") from None
    if metadata.format_version != 1:
        raise UserError(
            f"{path}: format {metadata.format_version} is newer than this program reads; upgrade semseg-app"
        )
    return metadata
