"""Segmentation models that transformers saved, with the image processor that lies beside them.

What such a model says of a pixel is what its own post-processing says: logits resized to the image, or, of models that
answer in queries (Mask2Former, MaskFormer, EoMT), the sum over queries of class probability times mask probability.
"""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from semseg_app import machine
from semseg_app.artifact.transformers_folder import model_name, transformers_type, weights_hash
from semseg_app.data.dataset import default_palette
from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Prediction, check_images
from semseg_app.inference.engines.torch import as_bytes, resolve_device
from semseg_app.labels import IGNORE, LabelSpace

PROCESSOR = "preprocessor_config.json"
QUERY_MODELS = ("eomt", "eomt_dinov3", "mask2former", "maskformer")
"""Model types that answer in queries, and whose image processors have `post_process_semantic_segmentation`."""
INSTALL = "pip install 'semseg-app[hf]'"
LOAD_ERRORS = (
    AttributeError,
    ImportError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
"""What transformers raises on folders that are damaged, incomplete or of another version; they have no common base."""


class TransformersModel(nn.Module):
    """A segmentation model of transformers, in eval mode and fp32, on the CPU until it is moved.

    Args:
        folder: config.json, preprocessor_config.json and weights: safetensors, or a .bin file without code in it.

    Raises:
        UserError: transformers is missing, the folder is incomplete, or it is not a segmentation model.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.name = model_name(folder)
        self.is_query_model = transformers_type(folder) in QUERY_MODELS
        self._processor = _load_processor(folder)
        self._model = _load_model(folder)
        names = self._model.config.id2label
        if sorted(names) != list(range(len(names))) or not 1 <= len(names) <= IGNORE:
            raise UserError(f"{folder}/config.json: id2label must number 1 to {IGNORE} classes from 0 without gaps")
        classes = [str(names[index]) for index in range(len(names))]
        classes = [f"{name} ({index})" if classes.count(name) > 1 else name for index, name in enumerate(classes)]
        self.labels = LabelSpace(classes=classes, palette=default_palette(len(classes)))

    def forward(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Class scores as the model's own post-processing defines them; the largest is the class of the pixel.

        Args:
            images: uint8 RGB `[B, 3, H, W]`, on the model's device.
            size: height and width of the scores; None = a coarser grid over the image: the model's own, of query models
                a quarter of the image.

        Returns:
            float32 `[B, C, *size]`: logits, of query models sums of probabilities, at least 0.
        """
        inputs = self._processor(images=list(images), return_tensors="pt", input_data_format="channels_first")
        tensors = {name: value.to(images.device) for name, value in inputs.items() if isinstance(value, Tensor)}
        outputs = self._model(**tensors)
        with torch.autocast(images.device.type, enabled=False):
            if not self.is_query_model:
                logits: Tensor = outputs.logits.float()
                if size is None:
                    return logits
                return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            size = size or (-(-images.shape[2] // 4), -(-images.shape[3] // 4))
            outputs.class_queries_logits = outputs.class_queries_logits.float()
            outputs.masks_queries_logits = outputs.masks_queries_logits.float()
            outputs.patch_offsets = inputs.get("patch_offsets")  # EoMT cuts wide photos into squares
            answers = self._processor.post_process_semantic_segmentation(
                outputs, target_sizes=[size] * len(images), return_segmentation_scores=True
            )
            return torch.stack([answer.segmentation_scores for answer in answers])

    def logits(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """`forward`'s scores as logits: their softmax is the class distribution, of query models scores / their sum."""
        scores: Tensor = self(images, size)
        return scores.clamp(min=torch.finfo(scores.dtype).tiny).log() if self.is_query_model else scores


class TransformersEngine:
    """A `TransformersModel` as an engine.

    Args:
        model: moved to `device` here.
        device: "cpu" or "cuda:<index>".
    """

    kind = "transformers"
    precision = "fp32"

    def __init__(self, model: TransformersModel, device: str = "cpu"):
        self.name = model.name
        self.labels = model.labels
        self.device = device
        self._model = model.to(device)

    def infer(self, images: np.ndarray) -> Prediction:
        """Segment uint8 RGB `[N, H, W, 3]`; any H and W."""
        with torch.inference_mode():
            scores: Tensor = self._model(self._pixels(images), images.shape[1:3])
            highest, classes = scores.max(dim=1)
            if self._model.is_query_model:
                confidence = highest / scores.sum(dim=1).clamp(min=torch.finfo(scores.dtype).tiny)
            else:
                # The largest softmax probability is 1 / sum(exp(logits - highest)).
                confidence = 1 / (scores - highest[:, None]).exp().sum(dim=1)
            return Prediction(as_bytes(classes), as_bytes((255 * confidence).round()))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class distribution at every pixel of uint8 RGB `[N, H, W, 3]`: float32 `[N, C, H, W]`."""
        with torch.inference_mode():
            logits = self._model.logits(self._pixels(images), images.shape[1:3])
            probabilities: np.ndarray = logits.softmax(dim=1).cpu().numpy()
            return probabilities

    def _pixels(self, images: np.ndarray) -> Tensor:
        check_images(images)
        return torch.from_numpy(np.array(images, order="C")).to(self.device).permute(0, 3, 1, 2)


def open_transformers(folder: Path, device: str = "auto", threads: int | None = None) -> TransformersEngine:
    """The engine of a folder that transformers saved. `device`: "auto", "cpu" or "cuda" (UserError without one)."""
    torch.set_num_threads(threads or machine.threads())
    return TransformersEngine(TransformersModel(folder), resolve_device(device))


def _load_processor(folder: Path) -> Any:
    transformers = _transformers(folder)
    if not (folder / PROCESSOR).is_file():
        raise UserError(
            f"{folder}: has no {PROCESSOR}, so the size and normalization of its inputs are unknown; copy that file of "
            "the original model into the folder"
        )
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except LOAD_ERRORS as error:
        raise UserError(f"{folder / PROCESSOR}: transformers cannot load it ({_one_line(error)})") from error
    # Not every processor has the attribute, and not every file has the key: MobileViT's crops by default.
    written = json.loads((folder / PROCESSOR).read_bytes())
    if written.get("do_center_crop", getattr(processor, "do_center_crop", False)):
        raise UserError(
            f"{folder / PROCESSOR}: crops the center, so class maps would not lie on the photo; set do_center_crop to "
            "false there"
        )
    if getattr(processor, "pad_size", None):  # its post-processing stretches photo and padding over the photo
        raise UserError(
            f"{folder / PROCESSOR}: pads each photo to a size, so class maps would not lie on the photo; set pad_size "
            "to null there"
        )
    return processor


def _load_model(folder: Path) -> Any:
    transformers = _transformers(folder)
    kind = transformers_type(folder)
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as SEMANTIC

    if kind in QUERY_MODELS:
        automatic = transformers.AutoModelForUniversalSegmentation
    elif kind in SEMANTIC:
        automatic = transformers.AutoModelForSemanticSegmentation
    else:
        raise UserError(
            f"{folder}: {kind} is not a segmentation model that can be run here; choose one of "
            f"{', '.join(sorted([*SEMANTIC, *QUERY_MODELS]))}"
        )
    weights_hash(folder)  # a clear line where there are no weights
    try:
        model, report = automatic.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except LOAD_ERRORS as error:
        raise UserError(f"{folder}: transformers cannot load it ({_one_line(error)})") from error
    missing = sorted(set(report["missing_keys"]) & {name for name, _ in model.named_parameters()})
    if missing:
        raise UserError(
            f"{folder}: its weights lack {len(missing)} of the tensors of a {type(model).__name__} (such as "
            f"{missing[0]}); take a model that was trained for segmentation, not its backbone"
        )
    return model.eval()


def _transformers(folder: Path) -> Any:
    """The module, without its progress bars and notices: what they say reaches the user in one line of ours."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"{folder}: is a model of transformers, which needs the extra `hf` ({error}): {INSTALL}"
        ) from error
    module: Any = transformers
    module.utils.logging.disable_progress_bar()
    module.utils.logging.set_verbosity_error()
    return module


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
