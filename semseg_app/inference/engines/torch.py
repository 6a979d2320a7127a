"""The torch engine: the trained network itself, as the reference for every other engine and for evaluation."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semseg_app import machine, models
from semseg_app.artifact import read_config
from semseg_app.errors import UserError
from semseg_app.inference.engines.base import Prediction, check_images
from semseg_app.inference.engines.decoder import Decoder
from semseg_app.labels import LabelSpace


class TorchEngine:
    """A network in eval mode, in the precision of its weights' arithmetic: fp32.

    Args:
        network: moved to `device` and to channels_last here.
        name: of the model, for messages.
        labels: its classes and palette.
        device: "cpu" or "cuda:<index>".
        whole: enlarge the logits of all classes on a CPU too, as on a GPU: what exact decoding is compared with.
    """

    kind = "torch"
    precision = "fp32"

    def __init__(
        self,
        network: models.SegmentationNetwork,
        name: str,
        labels: LabelSpace,
        device: str = "cpu",
        whole: bool = False,
    ):
        self.name = name
        self.labels = labels
        self.device = device
        self._network = network.to(device).to(memory_format=torch.channels_last).eval()
        half_pixel = not network.spec.align_corners  # what exact decoding computes
        coarse = device == "cpu" and half_pixel and not whole
        self._decoder = Decoder(network.stride, torch.get_num_threads()) if coarse else None

    def infer(self, images: np.ndarray) -> Prediction:
        """Segment uint8 RGB `[N, H, W, 3]`; any H and W."""
        with torch.inference_mode():
            coarse = self._network(self._pixels(images))
            if self._decoder:
                return self._decoder.prediction(coarse.numpy(), images.shape[1:3])
            logits = self._network.upsample(coarse, *images.shape[1:3])
            highest, classes = logits.max(dim=1, keepdim=True)
            # The largest softmax probability is 1 / sum(exp(logits - highest)).
            confidence = (255 / (logits - highest).exp().sum(dim=1)).round()
            return Prediction(as_bytes(classes.squeeze(1)), as_bytes(confidence))

    def classes(self, images: np.ndarray) -> np.ndarray:
        """The class maps of `infer` alone: uint8 `[N, H, W]`."""
        with torch.inference_mode():
            coarse = self._network(self._pixels(images))
            if self._decoder:
                return self._decoder.classes(coarse.numpy(), images.shape[1:3])
            return as_bytes(self._network.upsample(coarse, *images.shape[1:3]).argmax(dim=1))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Softmax of uint8 RGB `[N, H, W, 3]`: float32 `[N, C, H, W]`."""
        with torch.inference_mode():
            logits = self._network.full_logits(self._pixels(images))
            probabilities: np.ndarray = logits.softmax(dim=1).float().cpu().numpy()
            return probabilities

    def probabilities_and_features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`probabilities`, and the mean over the encoder's deepest map, float32 `[N, D]`."""
        with torch.inference_mode():
            maps = self._network.encode(self._pixels(images))
            logits = self._network.upsample(self._network.head(maps), images.shape[1], images.shape[2])
            probabilities: np.ndarray = logits.softmax(dim=1).float().cpu().numpy()
            features: np.ndarray = maps[-1].mean(dim=(2, 3)).float().cpu().numpy()
            return probabilities, features

    def _pixels(self, images: np.ndarray) -> Tensor:
        """RGB in [0, 1], `[N, 3, H, W]`, on the device."""
        check_images(images)
        # A copy: decoded photos are often read-only, mirrored views have negative strides, and torch takes neither.
        pixels = torch.from_numpy(np.array(images, order="C")).to(self.device)
        # Permuting NHWC gives NCHW in channels_last memory: no transposition takes place.
        return pixels.permute(0, 3, 1, 2).float().div_(255)


def open_model_folder(
    folder: Path, device: str = "auto", threads: int | None = None, whole: bool = False
) -> TorchEngine:
    """The engine of a model folder. `device`: "auto", "cpu" or "cuda" (UserError when it cannot be had)."""
    config = read_config(folder)
    torch.set_num_threads(threads or machine.threads())
    return TorchEngine(models.load(folder), config.name, config.labels, resolve_device(device), whole)


def resolve_device(device: str) -> str:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        reason = (
            f"torch {torch.__version__} was built without CUDA"
            if torch.version.cuda is None
            else f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU or driver"
        )
        raise UserError(f"device cuda: {reason}; use --device cpu, or repair the installation")
    return f"cuda:{torch.cuda.current_device()}"


def as_bytes(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.to(torch.uint8).cpu().numpy()
    return array
