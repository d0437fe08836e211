"""Record of how an evaluation or prediction runs its network."""

from typing import Any

import torch
from torch import nn

from gcnet.devices import choose_memory_format, choose_precision, describe_kernels, kernel_words
from gcnet.tasks.settings import EvaluateSettings, PredictSettings


def inference_record(model: nn.Module, settings: EvaluateSettings | PredictSettings) -> dict[str, Any]:
    """Return device, precision, memory format, compilation, fusion and GPU kernels as JSON values.

    Args:
        model: on its device, as placed by `gcnet.devices.place_network`.
        settings: precision, compilation and fusion.
    """
    device = next(model.parameters()).device
    return {
        "device": str(device),
        "precision": choose_precision(settings.precision, device),
        "channels_last": choose_memory_format(None, device) == torch.channels_last,
        "compile": settings.compile,
        "fuse": settings.fuse,
        "kernels": describe_kernels(device),
    }


def record_words(model: nn.Module, settings: EvaluateSettings | PredictSettings) -> list[str]:
    """Return the `inference_record` as words to print, such as "bf16" and "channels last".

    Args:
        model: as for `inference_record`.
        settings: likewise.
    """
    record = inference_record(model, settings)
    names = {"channels_last": "channels last", "compile": "compiled"}
    used = [words for name, words in names.items() if record[name]]
    return [record["precision"], *used, *kernel_words(next(model.parameters()).device)]
