"""Plain supervised training: the control that every other method is measured against."""

from typing import Literal

from torch import Tensor

from semseg_app.models import SegmentationNetwork
from semseg_app.training.contracts import Method
from semseg_app.training.data.streams import Batch, ImageDataset
from semseg_app.training.losses.labeled_loss import LabeledLoss, LabeledLossConfig
from semseg_app.training.methods.ema import EmaConfig, EmaTeacher


class SupervisedConfig(LabeledLossConfig):
    """Losses of the labeled images alone; unlabeled images are not read."""

    name: Literal["supervised"] = "supervised"
    ema: EmaConfig | None = None
    """Also keep an exponential moving average of the weights, and deliver it; null = none, {} = momentum 0.999."""


class Supervised(Method):
    """The method around one network; see the module for the paper."""

    def __init__(self, config: SupervisedConfig, network: SegmentationNetwork, labeled: ImageDataset):
        super().__init__()
        self.network = network
        self.labeled_loss = LabeledLoss(config, labeled, network)
        self.average = EmaTeacher(network, config.ema) if config.ema else None

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Named losses; the loop backs up their sum."""
        features = self.network.features(batch.labeled.images)
        return self.labeled_loss(self.network, features, batch.labeled)

    def networks(self) -> dict[str, SegmentationNetwork]:
        """What is evaluated and saved; the first is what the method delivers."""
        return ({"average": self.average.network} if self.average else {}) | {"student": self.network}

    def after_step(self, step: int) -> None:
        """The average follows."""
        if self.average:
            self.average.follow(self.network, step)
