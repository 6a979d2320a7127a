"""A new network and the weights that it starts from, with a record of what was loaded and what was not."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from semseg_app.artifact import WEIGHTS, check_weights, read_config
from semseg_app.artifact.licenses import encoder_weights
from semseg_app.artifact.lineage import Lineage, Weights, continued
from semseg_app.errors import UserError
from semseg_app.files import sha256
from semseg_app.model_spec import ModelSpec
from semseg_app.models import TRAINING_ONLY, SegmentationNetwork, build, non_finite
from semseg_app.models.class_rows import match_classes
from semseg_app.models.normalization import (
    IMAGENET,
    Normalization,
    file_normalization,
    published_normalization,
    read_config_beside,
)
from semseg_app.models.packaged_weights import packaged_state_dict, timm_name
from semseg_app.models.state_dicts import DERIVED, Fit, fit, grouped
from semseg_app.models.vision_transformer import VisionTransformerEncoder
from semseg_app.models.weight_files import read_state_dict
from semseg_app.models.weights import HubSet, ModelFolder, Packaged, Source, StateDict, fetched, find_weights

RAW_CLASSIFIERS = ("classifier.", "segmentation_head.0.")
"""What a classifier's names begin with in state dicts of whole networks: ours, segmentation_models_pytorch's."""


class Start(NamedTuple):
    """A network at its first step."""

    network: SegmentationNetwork
    lineage: Lineage
    """Of the weights alone; empty where they are random."""
    notes: list[str]
    """Lines for the log: what was loaded, from where, and what was not."""


class _Loaded(NamedTuple):
    """What a source put into a network."""

    matched: int
    fresh: list[str]
    unused: list[str]
    notes: Sequence[str] = ()


def start_network(
    spec: ModelSpec,
    weights: str | None,
    classes: Sequence[str],
    fetch: Callable[[str], Path],
    auxiliary: Sequence[int] = (),
    normalization: tuple[tuple[float, float, float] | None, tuple[float, float, float] | None] = (None, None),
) -> Start:
    """A network with the weights that a recipe names, and the normalization that belongs to them.

    Args:
        spec: what to build; its mean and std are replaced.
        weights: `model.weights` of the recipe: see `find_weights`. None = random weights.
        classes: names of the classes; a model folder's classifier is matched with them.
        fetch: a Hub id -> its model folder on this machine.
        auxiliary: as `build` takes it.
        normalization: mean and std where the recipe sets them; they win over those of the weights.

    UserError where the weights cannot be had or do not fit.
    """
    source = find_weights(weights, spec.encoder, fetch) if weights is not None else None
    expected = _normalization(source, spec.encoder)
    mean, std = normalization[0] or expected.mean, normalization[1] or expected.std
    spec = spec.model_copy(update={"mean": mean, "std": std, "revision": _revision(source, spec)})
    network = build(spec, source.name if isinstance(source, HubSet) else None, auxiliary)
    if source is None:
        return Start(network, Lineage(), ["weights: random (model.weights is null)"])
    loaded, lineage = _load(source, network, classes)
    if broken := non_finite(network.state_dict()):
        raise UserError(f"model.weights: {weights}: {broken} holds NaN or infinity; take other weights")
    first = lineage.weights[0].model_copy(
        update={"matched": loaded.matched, "fresh": loaded.fresh, "unused": loaded.unused}
    )
    lineage = lineage.model_copy(update={"weights": [first, *lineage.weights[1:]]})
    notes = [_summary(source, first, len(_own(network))), *loaded.notes]
    if (mean, std) == (expected.mean, expected.std):
        notes.append(f"  normalization: {expected}")
    else:
        given = expected._replace(mean=mean, std=std, source="model.mean and model.std of the recipe")
        notes.append(f"warning: these weights expect {expected}; the recipe's normalization is used instead: {given}")
    return Start(network, lineage, notes)


def _normalization(source: Source | None, encoder: str) -> Normalization:
    match source:
        case HubSet(name):
            with fetched(encoder):
                return published_normalization(encoder, name)
        case Packaged():
            return published_normalization(encoder, "imagenet")
        case StateDict(path):
            return file_normalization(path, encoder)
        case ModelFolder(path):
            model = read_config(path).model
            return Normalization(model.mean, model.std, "the model's own")
        case _:
            return IMAGENET


def _revision(source: Source | None, spec: ModelSpec) -> Literal[1, 2]:
    """Weights go on in the form of the architecture that they were trained in."""
    if isinstance(source, ModelFolder):
        before = read_config(source.path).model
        if before.architecture == spec.architecture:
            return before.revision
    return spec.revision


def _load(source: Source, network: SegmentationNetwork, classes: Sequence[str]) -> tuple[_Loaded, Lineage]:
    """Put the weights of a source into a network. What they are comes first in the lineage."""
    encoder = network.spec.encoder
    match source:
        case HubSet(name):  # `build` has loaded them: the encoder's own library did, and it checks names and shapes
            taken = _names(network.state_dict(), "encoder.")
            return _Loaded(len(taken), _fresh(network, taken), []), Lineage(weights=[encoder_weights(encoder, name)])
        case Packaged(package, path):
            state = packaged_state_dict(encoder, package, path)
            known = Weights(name=package.distribution.replace("==", " "), role="encoder", license=package.license)
            known = known.model_copy(update={"link": package.link, "sha256": package.sha256})
            return _load_state(network, state, path), Lineage(weights=[known])
        case StateDict(path):
            loaded = _load_state(network, read_state_dict(path), path)
            config = read_config_beside(path).get("pretrained_cfg", {})
            role = "encoder" if any(name.startswith("decoder") for name in loaded.fresh) else "network"
            record = Weights(name=path.name, role=role, license=config.get("license"), sha256=sha256(path))
            return loaded, Lineage(weights=[record])
        case ModelFolder(path):
            loaded = _load_folder(network, path, classes)
            lineage = continued(path)
            first = lineage.weights[0].model_copy(update={"sha256": sha256(path / WEIGHTS)})
            return loaded, lineage.model_copy(update={"weights": [first, *lineage.weights[1:]]})


def _load_state(network: SegmentationNetwork, state: dict[str, Tensor], path: Path) -> _Loaded:
    """A backbone's or a whole network's state dict. UserError where it is of another encoder."""
    if network.spec.position_grid is not None and isinstance(network.encoder, VisionTransformerEncoder):
        state = network.encoder.with_tables_of_its_grid(state)
    found = fit(state, network.encoder)
    total = len(network.encoder.state_dict())
    if not found.is_whole:
        if found.missing:
            shape = tuple(network.encoder.state_dict()[found.missing[0]].shape)
            example = f"{found.missing[0]} has no partner of its shape, {shape}"
            if (partner := found.prefix + found.missing[0].removeprefix("model.")) in state:
                example += f": in the file it is {tuple(other := state[partner].shape)}"
                if len(found.missing) == 1 and shape[1:2] == (3,) and (*other[:1], 3, *other[2:]) == shape:
                    raise UserError(
                        f"model.weights: {path}: {partner} reads images of {other[1]} channels, and networks here read "
                        "RGB; save it with the three of RGB alone (for gray, three times a third of its one)"
                    )
        else:
            example = f"{found.strangers[0]} has no place"
        raise UserError(
            f"model.weights: {path}: these are not the weights of {network.spec.encoder}: {len(found.tensors)} of its "
            f"{total} tensors are in the file, and {example}. The file holds {_first(state)}; expected are "
            f"{_first(network.encoder.state_dict())}. Set model.encoder to the network that they belong to, or "
            "model.weights=null"
        )
    rest, note = _decoder_of(network, state, found)
    own = network.state_dict()
    given = {f"encoder.{name}": tensor for name, tensor in found.tensors.items()} | rest
    for name, tensor in given.items():
        if own[name].is_floating_point() and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"model.weights: {path}: {name} is {kind}, which means nothing without the scale of its quantization; "
                "save the weights as floats, and give that file"
            )
    network.load_state_dict(own | given)
    used = {id(tensor) for tensor in rest.values()}
    unused = [name for name in found.unused if id(state.get(name)) not in used and not name.endswith(DERIVED)]
    notes = [f"  {note}"] if note else []
    if found.others:
        left = ", ".join(f"{prefix}*" for prefix in found.others)
        notes.append(
            f"warning: {path} holds several sets of weights that fit: {found.prefix}* is taken, {left} is not; to "
            "start from another, save its state dict alone"
        )
    elif found.prefix:
        notes.append(f"  the encoder's names in the file begin with {found.prefix}")
    return _Loaded(len(given), _fresh(network, given), grouped(unused, found.prefix), notes)


def _decoder_of(network: SegmentationNetwork, state: dict[str, Tensor], found: Fit) -> tuple[dict[str, Tensor], str]:
    """Decoder and classifier by our names, where the file is a whole network of this kind; a line for the log."""
    root, inside, _ = found.prefix.rpartition("encoder.")
    decoder = {name: tensor for name, tensor in _own(network).items() if name.startswith("decoder.")}
    there = {name: state[root + name] for name in decoder if root + name in state}
    if not inside or any(name not in there or there[name].shape != decoder[name].shape for name in decoder):
        return {}, ""
    reason = "the file holds none that is known here"
    for head in RAW_CLASSIFIERS:
        pairs = {name: (f"{root}{head}{name}", tensor) for name, tensor in network.classifier.state_dict().items()}
        rows = {f"classifier.{name}": state[raw] for name, (raw, _) in pairs.items() if raw in state}
        other = [raw for raw, tensor in pairs.values() if raw not in state or state[raw].shape != tensor.shape]
        if not other:
            note = "the classifier is taken in the file's order of classes, because a state dict names none"
            return there | rows, note
        if rows:
            shapes = [
                f"{raw} is {tuple(state[raw].shape) if raw in state else 'missing'}, not {tuple(tensor.shape)}"
                for raw, tensor in pairs.values()
                if raw in other
            ]
            reason = f"in the file {shapes[0]}"
    return there, f"the classifier starts from random weights: {reason}"


def _load_folder(network: SegmentationNetwork, folder: Path, classes: Sequence[str]) -> _Loaded:
    """A model folder: same encoder, same or another decoder, same or other classes."""
    config = read_config(folder)
    check_weights(folder)
    before, spec = config.model, network.spec
    if timm_name(before.encoder) != timm_name(spec.encoder):
        raise UserError(
            f"model.weights: {folder}: a {before.architecture} on {before.encoder}, not on {spec.encoder}; set "
            f"model.encoder={before.encoder} model.architecture={before.architecture} "
            f"model.decoder_channels={before.decoder_channels or 'null'}"
        )
    try:
        saved = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS}: damaged or truncated ({error}); copy it again") from None
    rows = match_classes(spec, config.labels.classes, classes)
    own = {name: tensor for name, tensor in network.state_dict().items() if name in saved}
    rowwise = {name: axis for name, axis in rows.axes.items() if name in own}
    other_shape = [name for name, tensor in own.items() if name not in rowwise and saved[name].shape != tensor.shape]
    same_decoder = not other_shape and _names(saved, "decoder.") == _names(_own(network), "decoder.")
    if any(name.startswith("encoder.") for name in other_shape) or _names(saved, "encoder.") != _names(own, "encoder."):
        raise UserError(f"{folder / WEIGHTS}: does not fit the encoder {spec.encoder}; it was saved by another version")
    taken = {name: saved[name] for name in own if name.startswith("encoder.") or same_decoder}
    for name, axis in rowwise.items():
        if name in taken:
            taken[name] = rows.moved(saved[name], own[name], axis)
    network.load_state_dict(network.state_dict() | taken)
    if same_decoder:
        note = rows.describe()
    else:
        note = (
            f"only the encoder is taken: the model is a {before.architecture} with a decoder of another shape; set "
            f"model.architecture={before.architecture} and model.decoder_channels={before.decoder_channels or 'null'} "
            "to take it whole"
        )
    unused = grouped(name for name in saved if name not in taken)
    return _Loaded(len(taken), _fresh(network, taken), unused, [f"  {note}"] if note else [])


def _own(network: SegmentationNetwork) -> dict[str, Tensor]:
    """What is saved of a network; heads that only training has are drawn anew every time."""
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(TRAINING_ONLY)}


def _names(state: Mapping[str, Tensor], prefix: str) -> set[str]:
    return {name for name in state if name.startswith(prefix)}


def _fresh(network: SegmentationNetwork, taken: Iterable[str]) -> list[str]:
    """The parts of a network that keep random weights, where it took the tensors of these names."""
    names = set(taken)
    return grouped(name for name in network.state_dict() if name not in names and not name.endswith(DERIVED))


def _first(names: Iterable[str], count: int = 3) -> str:
    """The first of some names, for a message."""
    listed = list(names)
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")


def _summary(source: Source, first: Weights, total: int) -> str:
    """The line of the log that says what was loaded, and from where."""
    match source:
        case HubSet():
            where = "the Hub"
        case Packaged():
            where = "an installed package"
        case StateDict(path):
            where = str(path)
        case ModelFolder(_, named):
            where = named
    fresh = f"; random: {', '.join(first.fresh)}" if first.fresh else ""
    unused = f"; not used: {', '.join(first.unused)}" if first.unused else ""
    license = first.license or "unknown"
    return f"weights: {first.name} from {where}, license {license}, {first.matched} of {total} tensors{fresh}{unused}"
