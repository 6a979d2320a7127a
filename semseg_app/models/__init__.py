"""Networks: `build` makes one from a spec, `save_network` and `load` move it to and from a model folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from torch import Tensor

from semseg_app import artifact
from semseg_app.errors import UserError
from semseg_app.model_spec import ModelSpec
from semseg_app.models.adaptation import merged_weights
from semseg_app.models.batch_norm import take_single_values
from semseg_app.models.network import Features, SegmentationNetwork
from semseg_app.models.registry import Parts, architecture, refuse_unfit

__all__ = ["Features", "ModelSpec", "SegmentationNetwork", "build", "load", "non_finite", "save_network"]

TRAINING_ONLY = ("auxiliary.", "decoder.auxiliary.")


def build(
    spec: ModelSpec,
    encoder_weights: str | None = None,
    auxiliary: Sequence[int] = (),
    training_heads: bool = True,
) -> SegmentationNetwork:
    """A network with fresh weights, drawn from torch's global generator.

    Args:
        spec: architecture, encoder, classes.
        encoder_weights: "imagenet" or another set of segmentation_models_pytorch for this encoder, from the Hub
            (of timm encoders, "imagenet" loads the weights that their name carries). UserError where they cannot be
            had.
            `initial.start_network` knows all other sources.
        auxiliary: encoder stages (indices into `Features.stages`) that get a training-only auxiliary head.
        training_heads: with the training-only heads that the architecture itself has (PIDNet's).
    """
    try:
        row = architecture(spec.architecture)
    except ValueError as error:
        raise UserError(f"model.architecture: {error}") from None
    refuse_unfit(spec, row)
    encoder, stride = row.encoder(spec, encoder_weights)
    channels = list(encoder.out_channels)
    width = spec.decoder_channels or (row.width if isinstance(row.width, int) else row.width(spec, channels))
    decoder = row.decoder(Parts(spec, channels, width, stride, training_heads))
    stages = [count for count in channels[1:] if count > 0]
    for index in auxiliary:
        if not -len(stages) <= index < len(stages):
            raise UserError(f"model.auxiliary: {spec.encoder} has stages 0 to {len(stages) - 1}, not {index}")
    network = SegmentationNetwork(
        spec, encoder, decoder, width, stride, stages, tuple(auxiliary), row.auxiliary_head, row.features
    )
    take_single_values(network)
    if row.initialize:
        initialize_decoder(network.decoder)
    initialize_decoder(network.auxiliary)
    initialize_head(network.classifier)
    return network


def save_network(folder: Path, network: SegmentationNetwork, config: artifact.ModelConfig) -> None:
    """Write a new model folder. What serves only training stays out of it: auxiliary heads; LoRA is merged."""
    weights = {name: tensor for name, tensor in merged_weights(network).items() if not name.startswith(TRAINING_ONLY)}
    artifact.save(folder, config, weights)


def non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; None where all numbers are finite.

    Norms learn by the statistics of their batch, so a training whose running variance has overflown goes on with a
    finite loss, while its network answers every photo with one class.
    """
    return next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)


def load(folder: Path, device: torch.device | str = "cpu") -> SegmentationNetwork:
    """The network of a model folder, in eval mode. UserError where its weights are missing, damaged or not finite."""
    config = artifact.read_config(folder)
    path = folder / artifact.WEIGHTS
    network = build(config.model, training_heads=False)
    try:
        network.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the model folder is incomplete, copy it again") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or truncated ({error}); copy it again") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: does not fit {artifact.CONFIG} beside it ({reason})") from None
    if broken := non_finite(network.state_dict()):
        raise UserError(f"{path}: {broken} holds NaN or infinity; train again with a lower optimizer.lr")
    return network.to(device).eval()
