"""Distillers: one file for each, with its config, its operator and its paper; and the table of them all.

A recipe switches one on by a section of that name under `method`. The contract is `semseg_app.training.contracts`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from semseg_app.training.contracts import Distiller, PartConfig
from semseg_app.training.distill.af_dcd import AfDCD, AfDCDConfig
from semseg_app.training.distill.attention_transfer import AttentionTransfer, AttentionTransferConfig
from semseg_app.training.distill.cirkd import CIRKD, CIRKDConfig
from semseg_app.training.distill.cwd import CWD, CWDConfig
from semseg_app.training.distill.fitnet import FitNet, FitNetConfig
from semseg_app.training.distill.ifvd import IFVD, IFVDConfig
from semseg_app.training.distill.kd import KD, KDConfig
from semseg_app.training.distill.maps import NetworkPair
from semseg_app.training.distill.maskd import MasKD, MasKDConfig
from semseg_app.training.distill.mgd import MGD, MGDConfig
from semseg_app.training.distill.skd import SKD, SKDConfig

Config = TypeVar("Config", bound=PartConfig)


@dataclass(frozen=True)
class Row(Generic[Config]):
    """One distiller: its config, how to build it for two networks, and its config where a recipe says nothing."""

    config: type[Config]
    build: Callable[[Config, NetworkPair], Distiller]
    default: Config | None = None


DISTILLERS: dict[str, Row[Any]] = {
    "kd": Row(KDConfig, lambda config, pair: KD(config), default=KDConfig()),
    "cwd": Row(CWDConfig, lambda config, pair: CWD(config, *pair.widths(config.features))),
    "skd": Row(SKDConfig, lambda config, pair: SKD(config)),
    "ifvd": Row(IFVDConfig, lambda config, pair: IFVD(config, pair.num_classes)),
    "attention_transfer": Row(AttentionTransferConfig, lambda config, pair: AttentionTransfer(config)),
    "fitnet": Row(FitNetConfig, lambda config, pair: FitNet(config, *pair.widths(config.features))),
    "mgd": Row(MGDConfig, lambda config, pair: MGD(config, *pair.widths(config.features))),
    "af_dcd": Row(AfDCDConfig, lambda config, pair: AfDCD(config, *pair.widths(config.features))),
    "cirkd": Row(CIRKDConfig, lambda config, pair: CIRKD(config, *pair.widths(config.features), pair.num_classes)),
    "maskd": Row(MasKDConfig, lambda config, pair: MasKD(config, pair.num_classes)),
}
