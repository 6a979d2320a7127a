"""What `semseg plot attention` shows of each model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from semseg_app.labels import LabelSpace
    from semseg_app.plots.attention import AttentionRow
    from semseg_app.plots.photo_grid import Picture


class Column(NamedTuple):
    """One model on the photo, plain or with its blocks shuffled."""

    title: str
    labels: "LabelSpace"
    segmented: "Picture"
    heat: "Picture"
    numbers: dict[str, Any]


def attention_columns(
    models: Sequence[str],
    paths: Sequence[Path],
    photo: Path,
    place: tuple[int, int],
    layer: int,
    block: int | None,
    seed: int,
    device: str,
) -> tuple["np.ndarray", list[Column]]:
    """The photo, uint8 RGB `[H, W, 3]`, and a column for each model; with `block` a second one, of the shuffled photo.

    A shuffled photo is shown as the model saw it, and the attention over it where the patches come from.
    """
    from semseg_app.artifact import read_config
    from semseg_app.data.dataset import read_image
    from semseg_app.inference.engines.torch import resolve_device
    from semseg_app.models import load
    from semseg_app.plots.attention import attention_row
    from semseg_app.plots.feature_points import as_input
    from semseg_app.plots.overlays import overlay
    from semseg_app.plots.photo_grid import Picture
    from semseg_app.training.plots.shuffled_attention import shuffled, shuffled_attention_row

    image, on = read_image(photo), resolve_device(device)
    images = as_input(image, on)
    columns = []
    for model, path in zip(models, paths, strict=True):
        network, labels = load(path, on), read_config(path).labels
        seen = attention_row(network, images, *place, layer, model)
        classes = network.full_logits(images).argmax(dim=1)[0].byte().cpu().numpy()
        picture = Picture(overlay(image, classes, labels.palette), mark=place)
        columns.append(_column(model, labels, picture, image, seen, place, model, False))
        if block is not None:
            moved, order = shuffled(images, block, seed)
            seen = shuffled_attention_row(network, moved, order, block, *place, layer)
            shown = Picture((moved[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy())
            columns.append(_column(f"{model},\nshuffled", labels, shown, image, seen, place, model, True))
    return image, columns


def _column(
    title: str,
    labels: "LabelSpace",
    segmented: "Picture",
    image: "np.ndarray",
    seen: "AttentionRow",
    place: tuple[int, int],
    model: str,
    is_shuffled: bool,
) -> Column:
    from semseg_app.plots.photo_grid import Picture, heat_picture

    top = f"largest {100 * float(seen.weights.max()):.1f} %, like {seen.effective:.0f} of {seen.weights.size} patches"
    heat = Picture(heat_picture(image, seen.over_photo(*image.shape[:2])), mark=place, caption=top)
    numbers = {
        "model": model,
        "shuffled": is_shuffled,
        "patch_pixels": seen.patch,
        "cell": list(seen.cell),
        "layers": seen.layers,
        "prefix": seen.prefix,
        "effective_patches": seen.effective,
        "weights": [[round(float(weight), 6) for weight in row] for row in seen.weights],
    }
    return Column(title, labels, segmented, heat, numbers)
