"""Licenses of what a model was made of, and what that means for its own.

A network that starts from weights, or learns from a teacher that did, is taken to inherit their license where that is
not permissive: SegFormer's MiT weights, for one, are for research only, and so is every student of such a teacher.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from semseg_app.artifact.lineage import Weights
from semseg_app.errors import UserError

_PERMISSIVE = """
apache-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc0-1.0 isc mit ms-pl
ncsa pddl postgresql unlicense wtfpl zlib
"""
_OTHERS = """
afl-3.0 agpl-3.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m
c-uda cc cc-by-2.5 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research lgpl lgpl-2.1 lgpl-3.0
lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 lppl-1.3c mpl-2.0 odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++
osl-3.0
"""
PERMISSIVE = frozenset(_PERMISSIVE.split())
"""Whoever keeps the notice may license what he makes of it as he likes."""
HUB_LICENSES = PERMISSIVE | frozenset(_OTHERS.split())
"""What the Hub takes as `license:`; any other becomes `license: other` with its name."""

SEGFORMER = ("nvidia-source-code-license-segformer", "https://github.com/NVlabs/SegFormer/blob/master/LICENSE")
NON_COMMERCIAL = ("cc-by-nc-4.0", "https://creativecommons.org/licenses/by-nc/4.0/")
OF_ENCODERS: dict[str, tuple[str, str]] = {
    # The first that matches "<encoder>.<weights>" whole. What timm offers says its license itself.
    r"mit_b\d\..*": SEGFORMER,
    r".*\.(ssl|swsl|instagram)": NON_COMMERCIAL,
    r"mobileone_.*": ("mobileone-license", "https://github.com/apple/ml-mobileone/blob/main/LICENSE"),
    r"(resnet|resnext50|resnext101_32x8d|vgg|densenet|mobilenet_v2).*": (
        "bsd-3-clause",
        "https://github.com/pytorch/vision/blob/main/LICENSE",
    ),
    r"(senet|se_res|inception|xception).*": (
        "bsd-3-clause",
        "https://github.com/Cadene/pretrained-models.pytorch/blob/master/LICENSE.txt",
    ),
    r"dpn.*": ("apache-2.0", "https://github.com/rwightman/pytorch-dpn-pretrained/blob/master/LICENSE"),
    r"efficientnet-.*": ("apache-2.0", "https://github.com/lukemelas/EfficientNet-PyTorch/blob/master/LICENSE"),
    r"timm-.*": ("apache-2.0", "https://github.com/huggingface/pytorch-image-models/blob/main/LICENSE"),
}
"""Weights of segmentation_models_pytorch's encoders -> license, where it stands."""


class License(NamedTuple):
    """A license as a model card states it."""

    id: str
    name: str | None
    """Where the id is "other"."""
    link: str | None


def encoder_weights(encoder: str, weights: str) -> Weights:
    """License of an encoder's pretrained weights; None where it is unknown. timm says that of "tu-" encoders."""
    if encoder.startswith("tu-"):
        import timm

        config = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        if config is None or not config.hf_hub_id:
            return Weights(name=encoder, role="encoder", license=None)
        known = None if config.license == "unknown" else config.license
        page = f"https://huggingface.co/{config.hf_hub_id}"
        return Weights(name=config.hf_hub_id, role="encoder", license=known, link=page)
    name = f"{encoder}.{weights}"
    for pattern, (license, link) in OF_ENCODERS.items():
        if re.fullmatch(pattern, name):
            return Weights(name=name, role="encoder", license=license, link=link)
    return Weights(name=name, role="encoder", license=None)


def decide(chosen: str | None, weights: Sequence[Weights]) -> License:
    """The license of a model made of these weights. UserError where it is not said, or may not be chosen.

    Args:
        chosen: what its author wants; None = nothing said.
        weights: all that went into it, teachers' included; none with an unknown license.
    """
    for one in weights:
        if one.license is None:
            raise UserError(
                f"{one.name} ({one.role}): the license of these weights is not known here; look it up and give it as "
                "--weights-license"
            )
    inherited = {one.license: one for one in weights if one.license and one.license not in PERMISSIVE}
    if not inherited:
        if chosen is None:
            raise UserError("no license given; add --license, e.g. --license apache-2.0, or license: to its recipe")
        return as_license(chosen, None)
    first = next(iter(inherited.values()))
    assert first.license is not None
    bound = (
        as_license(first.license, first.link)
        if len(inherited) == 1
        else License("other", "-and-".join(inherited), first.link)
    )
    if chosen not in (None, bound.id, bound.name):
        raise UserError(
            f"--license {chosen}: {first.name} ({first.role}) is under {first.license}, which binds what is made of "
            "it; leave --license out, or train from other weights"
        )
    return bound


def as_license(name: str, link: str | None) -> License:
    """As the Hub writes it."""
    if name in HUB_LICENSES:
        return License(name, None, link)
    slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
    if not slug or slug == "other":
        raise UserError(f"--license {name}: give its name, e.g. apache-2.0 or my-company-license")
    return License("other", slug, link)
