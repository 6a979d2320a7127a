"""Af-DCD with its logit distillation, as `method.preset`: sections of a recipe's method from which a run starts.

parity: the released code, per dataset, with the weights of its scripts (the defaults of its parser, which no script
uses, and the center mask of the Cityscapes script, which does not parse, left aside). recommended: one weight on the
element mean, which fits every resolution, and no pooling on small images.
"""

from typing import Any, Literal

Preset = Literal[
    "af-dcd-recommended",
    "af-dcd-recommended-camvid",
    "af-dcd-parity-cityscapes",
    "af-dcd-parity-camvid",
    "af-dcd-parity-voc",
    "af-dcd-parity-ade20k",
    "af-dcd-parity-coco-stuff",
]


def _parity(
    feature_weight: float, contrast_weight: float = 5e-3, pool_size: int = 4, kd: float = 1.0
) -> dict[str, Any]:
    af_dcd = {"feature_loss": "sum", "feature_weight": feature_weight, "contrast_weight": contrast_weight}
    return {"kd": {"weight": kd}, "af_dcd": af_dcd | {"pool_size": pool_size}}


PRESETS: dict[Preset, dict[str, dict[str, Any]]] = {
    "af-dcd-recommended": {"af_dcd": {}},
    "af-dcd-recommended-camvid": {"af_dcd": {"contrast_weight": 1e-2, "pool_size": 0}},
    "af-dcd-parity-cityscapes": _parity(2e-6),
    "af-dcd-parity-camvid": _parity(8e-6, contrast_weight=1e-2, pool_size=0),
    "af-dcd-parity-voc": _parity(1e-6),
    "af-dcd-parity-ade20k": _parity(1e-6, contrast_weight=4e-2, kd=0.5),
    "af-dcd-parity-coco-stuff": _parity(5e-6, kd=0.5),
}
