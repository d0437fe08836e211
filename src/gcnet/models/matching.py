"""Matches weights to a network by key and shape: prefixes, heads for other classes, other image sizes."""

import sys
import warnings
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gcnet.errors import UserError, printable
from gcnet.models.registry import build_base_model, is_detector

# Layers of auxiliary classifiers, which count in training only.
AUXILIARY = frozenset({"AuxLogits.fc", "aux1.fc2", "aux2.fc2"})

_LEAST_SHARE = 0.5  # of a network's names that a prefix must account for
_SHOWN = 3
_MMDET = ("roi_head.", "rpn_head.", "bbox_head.", "neck.")
_BLOCK = ".context_block."  # mmdet's name of a context block in a residual block
# What a timm filter raises for weights that are not of its network.
_FILTER_FAILURES = (KeyError, RuntimeError, ValueError, AttributeError, IndexError, TypeError, AssertionError)


@dataclass(frozen=True)
class NewHead:
    """The newly initialized part of a classifier.

    Attributes:
        names: keys of its weights.
        layers: names of its layers.
        reason: why, in words.
    """

    names: frozenset[str] = frozenset()
    layers: tuple[str, ...] = ()
    reason: str = ""


def matched_names(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], origin: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return weights by the network's own keys, without the prefix of a larger model around the network.

    Layers of such a model (`backbone.` beside `head.fc.`) outside the prefix that the network lacks are skipped.

    Args:
        weights: the weights by their keys in the file.
        own: the network's weights.
        origin: of the weights, for errors.

    Returns:
        The weights by key, and notes on the changes.

    Raises:
        UserError: several prefixes fit equally well: the file holds several networks.
    """
    if sum(name in own for name in weights) >= _LEAST_SHARE * len(own):
        return dict(weights), []
    ends = {name.rpartition(".")[2] for name in own}
    prefixes = Counter(
        prefix
        for name in weights
        if name.rpartition(".")[2] in ends
        for prefix in _prefixes(name)
        if name.removeprefix(prefix) in own
    )
    fitting = [(count, prefix) for prefix, count in prefixes.items() if count >= _LEAST_SHARE * len(own)]
    if not fitting:
        return dict(weights), []
    best = max(fitting)[0]
    chosen = sorted(prefix for count, prefix in fitting if count == best)
    if len(chosen) > 1:
        names = " and ".join(f'"{printable(prefix)}"' for prefix in chosen)
        raise UserError(f"the weights of {printable(origin)} are of several networks, {names}: save one of them alone")
    return _without_prefix(weights, own, chosen[0])


def _prefixes(name: str) -> list[str]:
    """`a.b.c` -> `a.`, `a.b.`."""
    parts = name.split(".")
    return [".".join(parts[:count]) + "." for count in range(1, len(parts))]


def _without_prefix(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, Tensor], list[str]]:
    matched = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    notes, skipped = [f'prefix "{printable(prefix)}" removed'], []
    for name, value in weights.items():
        if name.startswith(prefix):
            continue
        # A classifier outside the prefix: head.fc.weight, or fc.weight.
        candidates = (name, *map(name.removeprefix, _prefixes(name)))
        short = next((candidate for candidate in candidates if candidate in own), None)
        if short is not None and short not in matched and own[short].shape[1:] == value.shape[1:]:
            matched[short] = value
        else:
            skipped.append(name)
    if skipped:
        notes.append(f"{len(skipped)} tensors outside it skipped ({listed(skipped)})")
    return matched, notes


def listed(names: list[str]) -> str:
    """Return the first of `names`, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(printable, names[:_SHOWN])) + more


def resized(weights: dict[str, Tensor], own: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return weights with position embeddings resized to the grid of a timm or torchvision network.

    Weights that fit, and those of other networks, are returned unchanged.

    Args:
        weights: the weights.
        own: the network's weights.
        model: the network.
    """
    fits = all(name in own and own[name].shape == value.shape for name, value in weights.items())
    if fits and len(weights) >= len(own):
        return weights
    module = sys.modules[type(model).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    if module.__name__.startswith("timm.") and convert is not None:
        blocks = {name: value for name, value in weights.items() if ".context." in name}
        base = {name: value for name, value in weights.items() if name not in blocks}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on the memory layout of what timm interpolates
                converted = {name: value for name, value in convert(base, model).items() if isinstance(value, Tensor)}
        except _FILTER_FAILURES:
            return weights
        better = sum(name in own for name in converted) >= sum(name in own for name in base)
        return converted | blocks if better else weights
    embedding = "encoder.pos_embedding"
    if module.__name__.startswith("torchvision.") and weights.get(embedding) is not None and embedding in own:
        weights[embedding] = _resized_embedding(weights[embedding], own[embedding], model)
    return weights


def _resized_embedding(embedding: Tensor, own: Tensor, model: Any) -> Tensor:
    """The position embedding (1, P + 1, C) of torchvision's ViT for the model's grid."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    name = "encoder.pos_embedding"
    if embedding.shape == own.shape or embedding.dim() != 3 or embedding.shape[-1] != own.shape[-1]:
        return embedding
    try:
        return interpolate_embeddings(model.image_size, model.patch_size, OrderedDict({name: embedding}))[name]
    except ValueError:  # not a square grid
        return embedding


def new_head(
    own: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    fresh: set[str],
    base_name: str,
    options: Mapping[str, Any],
) -> NewHead:
    """Return the layers of a head to initialize, for weights of other classes or without a classifier.

    Args:
        own: the network's tensors.
        weights: the weights, by the same keys.
        fresh: keys of tensors that are newly initialized anyway.
        base_name: name of the base model.
        options: options of `build_base_model`, other than name and classes.
    """
    unfit = {name for name, value in weights.items() if name in own and own[name].shape != value.shape}
    missing = {name for name in own if name not in weights and name not in fresh}
    if not unfit and not missing:
        return NewHead()
    layers = class_layers(base_name, options)
    dependent = {name for name in own if name.rpartition(".")[0] in layers}
    if unfit and unfit <= dependent and all(own[name].shape[1:] == weights[name].shape[1:] for name in unfit):
        names = dependent
        first = min(unfit, key=lambda name: (own[name].dim(), len(own[name]), len(name), name))
        counts = f"{len(weights[first])} outputs in the weights, {len(own[first])} in the network"
    else:
        names, counts = set(), ""
    absent = _absent(weights, missing - names, layers, base_name)
    new = frozenset(names | absent)
    if not new:
        return NewHead()
    shown = tuple(sorted({name.rpartition(".")[0] for name in new if name.rpartition(".")[0] in layers}))
    reason = ", ".join(filter(None, [counts, f"{_roots(absent)} not in the weights" if absent else ""]))
    return NewHead(new, shown, f"classifier initialized anew ({', '.join(shown)}): {reason}")


def _absent(weights: Mapping[str, Tensor], missing: set[str], layers: set[str], base_name: str) -> set[str]:
    """The missing names, if all are in heads of which the weights have nothing."""
    depth = None if is_detector(base_name) else 1
    roots = {".".join(layer.split(".")[:depth]) + "." for layer in layers}
    heads = tuple(root for root in roots if not any(name.startswith(root) for name in weights))
    return missing if heads and all(name.startswith(heads) for name in missing) else set()


def _roots(names: set[str]) -> str:
    return ", ".join(sorted({name.partition(".")[0] for name in names}))


def class_layers(base_name: str, options: Mapping[str, Any] | None = None) -> set[str]:
    """Return the layers whose shape depends on the number of classes.

    Args:
        base_name: name of the base model.
        options: options of `build_base_model`, other than name and classes.
    """
    two, three = (_shapes(base_name, classes, options or {}) for classes in (2, 3))
    return {name.rpartition(".")[0] for name in two if two[name] != three[name]}


def _shapes(base_name: str, classes: int, options: Mapping[str, Any]) -> dict[str, torch.Size]:
    try:
        with torch.device("meta"):
            base = build_base_model(base_name, classes, **options)
    except (RuntimeError, NotImplementedError):  # RegNets compute their widths with tensors
        base = build_base_model(base_name, classes, **options)
    return {name: tensor.shape for name, tensor in base.state_dict().items()}


def looks_like_mmdet(names: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a network of mmdet or mmpretrain, or of its context blocks."""
    backbone = any(name.startswith("backbone.") for name in names)
    return (backbone and any(name.startswith(_MMDET) for name in names)) or any(_BLOCK in name for name in names)
