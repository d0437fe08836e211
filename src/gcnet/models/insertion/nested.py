"""nn.TransformerEncoder with blocks: padded tokens stay in place, as in training.

In inference with a padding mask the encoder passes nested tensors, without the padded tokens, from layer to layer. A
block would then see other tokens than in training, and PyTorch's nested tensors lack the operations that it needs.
"""

from torch import nn

_SAVED = "use_nested_tensor_without_context"


def keep_padding(model: nn.Module, holds_block: set[nn.Module]) -> None:
    """Turn nested tensors off in the encoders that hold a block, and on again in those that no longer do.

    Args:
        model: the network.
        holds_block: the modules that run an inserted block.
    """
    for encoder in model.modules():
        if not isinstance(encoder, nn.TransformerEncoder):
            continue
        attributes, holds = vars(encoder), any(module in holds_block for module in encoder.modules())
        if holds and _SAVED not in attributes:
            attributes[_SAVED] = attributes.get("use_nested_tensor", False)
            attributes["use_nested_tensor"] = False
        elif not holds and _SAVED in attributes:
            attributes["use_nested_tensor"] = attributes.pop(_SAVED)
