"""Network source timm: classifiers with global context, squeeze-and-excitation and ECA blocks.

The network is timm's without its attention blocks (`plain_gcresnet50t`), with blocks of this package in their places.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gcnet.checkpoints.convert import SOURCES, convert_block
from gcnet.checkpoints.key_table import KeyTable, Rule, block_rules
from gcnet.checkpoints.library_networks import LIKELY_SHARE, Fit, fitting_network, misfit, nearest_share
from gcnet.checkpoints.network import NetworkDescription, NetworkSource
from gcnet.checkpoints.published_files import published_files
from gcnet.checkpoints.source import SE_TABLE, BlockWeights, Table
from gcnet.checkpoints.timm import ECA_TABLE, GLOBAL_CONTEXT_TABLE, timm_preprocessing
from gcnet.checkpoints.weight_file import WeightFile
from gcnet.errors import UserError

_NAMES = ("gcres*", "gc_eff*", "seres*", "eca_res*", "ecares*")
_BLOCKS = {"GlobalContext": "timm_global_context", "SEModule": "timm_se", "EcaModule": "timm_eca"}
_TABLES: Mapping[str, Table] = {"gc": GLOBAL_CONTEXT_TABLE, "se": SE_TABLE, "eca": ECA_TABLE}
_CHILDREN = ("attn", "se")  # names of attention blocks in their residual blocks
_MARKS = tuple(f".{child}.{part}." for child in _CHILDREN for part in ("conv_attn", "mlp_add", "fc1", "conv"))
_PLAIN = "plain_"
_DEFAULTS = {"pooling": "attention", "fusion": "add"}


class TimmSource(NetworkSource):
    """Classifiers of timm with `GlobalContext`, `SEModule` or `EcaModule`."""

    license = "Apache-2.0"

    def recognizes(self, weights: WeightFile) -> bool:
        marked = any(mark in key for key in weights.tensors for mark in _MARKS)
        return marked and _fit(weights) is not None

    def resembles(self, weights: WeightFile) -> bool:
        import timm

        marked = any(mark in key for key in weights.tensors for mark in _MARKS)
        return marked and nearest_share(weights.tensors, _candidates(), timm.create_model) >= LIKELY_SHARE

    def describe(self, weights: WeightFile) -> NetworkDescription:
        import timm

        fit = _fit(weights)
        if fit is None:
            raise misfit(weights, _candidates(), timm.create_model, "timm")
        version, is_known = _version(fit.name, weights.origin)
        notes = [] if is_known else [f"preprocessing of {fit.name}.{version}".rstrip(".")]
        try:
            insertions = _insertions(weights, fit)
        except UserError as error:  # an activation that our blocks do not have
            insertions = ()
            notes.append(f"the attention blocks stay those of timm: {error}")
        return NetworkDescription(
            f"{_PLAIN}{fit.name}" if insertions else fit.name,
            num_classes=fit.num_classes,
            insertions=insertions,
            preprocessing=timm_preprocessing(fit.name, version),
            notes=tuple(notes),
        )

    def convert(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:
        return _table(network).to_ours(tensors)

    def to_library(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:
        return _table(network).to_theirs(tensors)


@cache
def _candidates() -> dict[str, int | None]:
    """Number of parameters by name, None for networks without published weights."""
    import timm

    known = {file.name.removeprefix("timm/").partition(".")[0]: file.parameters for file in published_files()}
    return {name: known.get(name) for pattern in _NAMES for name in timm.list_models(pattern)}


def _fit(weights: WeightFile) -> Fit | None:
    import timm

    return fitting_network(weights.tensors, _candidates(), timm.create_model)


def _version(network: str, origin: str) -> tuple[str, bool]:
    """The tag of the published weights whose file has this name, and whether there is one; else timm's first tag."""
    import timm

    tags = [name.partition(".")[2] for name in timm.list_models(f"{network}.*", pretrained=True)]
    for tag in tags:
        config = timm.get_pretrained_cfg(f"{network}.{tag}")
        if config is not None and isinstance(config.url, str) and Path(config.url).name == Path(origin).name:
            return tag, True
    return (tags or [""])[0], False


def _insertions(weights: WeightFile, fit: Fit) -> tuple[dict[str, Any], ...]:
    """Arguments of `gcnet.insert`: blocks of equal options together."""
    groups: dict[tuple[tuple[str, Any], ...], list[str]] = {}
    for place, module in fit.network.named_modules():
        if type(module).__name__ in _BLOCKS:
            options = _block(weights, place, module)
            groups.setdefault(tuple(options.items()), []).append(place)
    return tuple({**dict(options), "at": tuple(places)} for options, places in groups.items())


def _block(weights: WeightFile, place: str, module: nn.Module) -> dict[str, Any]:
    """Name and options of the block at a place."""
    source = _BLOCKS[type(module).__name__]
    prefix = f"{place}."
    state = {key.removeprefix(prefix): value for key, value in weights.tensors.items() if key.startswith(prefix)}
    try:
        convert_block(module, source)  # checks what keys do not show, such as the activation
        converted = convert_block(state, source)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    width = next((tensor.numel() for key, tensor in converted.items() if key.endswith("expand.bias")), 0)
    name, options = SOURCES[source].describe(BlockWeights(state, converted, width))
    return {"block": name} | {key: value for key, value in options.items() if value != _DEFAULTS.get(key)}


def _table(network: NetworkDescription) -> KeyTable:
    blocks = {str(insertion["block"]) for insertion in network.insertions}
    rules = [
        rule
        for block in sorted(blocks)
        for child in _CHILDREN
        for rule in block_rules(f"*.{child}", f"*.{child}.context", _TABLES[block])
    ]
    return KeyTable([*rules, Rule("*", "*")])
