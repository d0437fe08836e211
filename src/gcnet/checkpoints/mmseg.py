"""Network source mmseg: dilated ResNets of mmsegmentation, without decode heads."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gcnet.checkpoints.key_table import KeyTable, Rule
from gcnet.checkpoints.mm_config import backbone_config
from gcnet.checkpoints.network import NetworkDescription, NetworkSource
from gcnet.checkpoints.residual_networks import residual_network, residual_rules
from gcnet.checkpoints.weight_file import WeightFile
from gcnet.errors import UserError

_NAME = "mmseg"
_HEADS = ("decode_head.", "auxiliary_head.")
# Output stride 8, and the first block of a dilated stage has the dilation of the stage before (contract_dilation).
_D8 = {"strides": [1, 2, 1, 1], "dilations": [1, 1, 2, 4], "contract_dilation": True, "style": "pytorch"}
_NETWORKS = ("resnet50", "resnet101")

_TABLE = KeyTable(
    [
        Rule("backbone.stem.7.*", "bn1.*"),
        Rule("backbone.stem.#.*", "conv1.#.*"),
        *residual_rules("backbone.", ""),
    ]
)


class MmsegSource(NetworkSource):
    """Checkpoints of mmsegmentation's `EncoderDecoder` with a ResNetV1c of output stride 8."""

    def recognizes(self, weights: WeightFile) -> bool:
        backbone = any(key.startswith("backbone.") for key in weights.tensors)
        return backbone and any(key.startswith("decode_head.") for key in weights.tensors)

    def describe(self, weights: WeightFile) -> NetworkDescription:
        network = residual_network(weights, "backbone.", _NAME)
        if "backbone.stem.0.weight" not in weights.tensors or network not in _NETWORKS:
            raise UserError(
                f"{weights.origin} is a checkpoint of {_NAME} with a {network} that gcnet does not have: its dilated "
                f"ResNets are {' and '.join(_NETWORKS)} with a stem of three convolutions (ResNetV1c)"
            )
        _require_dilation(weights, backbone_config(weights))
        heads = sorted({key.partition(".")[0] for key in weights.tensors if key.startswith(_HEADS)})
        return NetworkDescription(
            f"{network}c_d8",
            fresh=("fc.",),
            skipped=_HEADS,
            notes=(
                f"{' and '.join(heads)} are not converted, since gcnet has no segmentation networks: the result is the "
                "backbone, with a new classifier fc",
            ),
        )

    def convert(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:  # noqa: ARG002
        return _TABLE.to_ours(tensors)

    def to_library(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:  # noqa: ARG002
        return _TABLE.to_theirs(tensors)


def _require_dilation(weights: WeightFile, config: Mapping[str, Any]) -> None:
    """Check strides and dilations, which keys and shapes do not show."""
    if not config:
        raise UserError(
            f"{weights.origin} is a checkpoint of {_NAME} without its configuration in the metadata, which alone tells "
            "the dilation of the backbone: convert the whole file instead of its state dict"
        )
    unfit = [name for name, value in _D8.items() if config.get(name, value if name == "style" else None) != value]
    if unfit or config.get("multi_grid") is not None:
        name = unfit[0] if unfit else "multi_grid"
        raise UserError(
            f"{weights.origin} is a checkpoint of {_NAME} with {name} {config.get(name)} in its backbone, and gcnet's "
            f"dilated ResNets have {_D8.get(name)}"
        )
