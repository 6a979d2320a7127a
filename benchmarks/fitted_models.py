"""Model folders for measurements of speed: random or packaged weights, and a last layer fitted to labels in seconds.

How long a class map takes to decode depends on how many cells have classes that differ, so the logits have to look like
those of a trained network. A ridge regression from what the last convolution reads to the labels gives such logits
without a training.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from semseg_app import artifact, models
from semseg_app.data.dataset import Sample, SegmentationData
from semseg_app.data.layouts import open_dataset
from semseg_app.errors import UserError
from semseg_app.labels import LabelSpace
from semseg_app.model_spec import ModelSpec

SHARPNESS = 12.0
"""Logits per unit of the regression's answer: the classes of most pixels are then as sure as a trained network's."""
KEYS_OF_E85CC4E = ("architecture", "encoder", "output_stride", "decoder_channels", "num_classes", "mean", "std")


def fitted_model(folder: Path, spec: ModelSpec, dataset: Path, photos: int = 24) -> None:
    """Write the model folder of a network whose last layer is fitted to `photos` of a dataset's training split.

    Its config has only the keys that commit e85cc4e reads. A spec with more classes than the dataset gets classes that
    no pixel shows.
    """
    data = open_dataset(dataset)
    torch.manual_seed(0)
    try:
        network = models.build(spec, "imagenet")
    except UserError:
        network = models.build(spec)
    samples = data.folders["train"].samples()[:photos]
    network.train()
    with torch.no_grad():
        for sample in samples[:8]:  # the running statistics of the norms
            network(_pixels(data, sample).repeat(2, 1, 1, 1))
    network.eval()
    _fit(network, [(_pixels(data, sample), _label(data, sample)) for sample in samples])
    names = [*data.info.classes, *(f"absent {index}" for index in range(spec.num_classes - data.num_classes))]
    palette = [*data.info.palette, *((0, 0, index) for index in range(spec.num_classes - data.num_classes))]
    config = artifact.ModelConfig(name="fitted", model=spec, labels=LabelSpace(classes=names, palette=palette))
    models.save_network(folder, network, config)
    file = folder / artifact.CONFIG
    content = json.loads(file.read_text())
    content["model"] = {key: content["model"][key] for key in KEYS_OF_E85CC4E}
    file.write_text(json.dumps(content, indent=2))


def _fit(network: models.SegmentationNetwork, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Ridge regression of the classifier, in float64."""
    classes, classifier = network.spec.num_classes, network.classifier
    features, targets = [], []
    with torch.no_grad():
        for pixels, label in pairs:
            read = network.features(pixels).decoder[0]  # [D, h, w]
            coarse = functional.interpolate(label[None, None].float(), size=read.shape[1:], mode="nearest").flatten()
            known = coarse < classes
            features.append(read.flatten(1).T[known])
            targets.append(functional.one_hot(coarse[known].long(), classes))
        x, y = torch.cat(features).double(), torch.cat(targets).double()
        mean, scale = x.mean(0), x.std(0) + 1e-6
        z = (x - mean) / scale
        ridge = 1e-3 * len(z) * torch.eye(z.shape[1], dtype=torch.double)
        weights = SHARPNESS * torch.linalg.solve(z.T @ z + ridge, z.T @ (y - y.mean(0))) / scale[:, None]
        classifier.weight.copy_(weights.T[:, :, None, None])
        assert classifier.bias is not None
        classifier.bias.copy_(SHARPNESS * y.mean(0) - mean @ weights)


def _pixels(data: SegmentationData, sample: Sample) -> Tensor:
    return torch.from_numpy(np.array(data.read_image(sample))).permute(2, 0, 1)[None].float() / 255


def _label(data: SegmentationData, sample: Sample) -> Tensor:
    return torch.from_numpy(np.array(data.read_pair(sample)[1]))
