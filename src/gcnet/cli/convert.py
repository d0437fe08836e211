"""`gcnet convert`: converts a checkpoint of another library to a model file."""

from dataclasses import dataclass, field
from pathlib import Path

from gcnet.arguments import POSITIONAL
from gcnet.errors import UserError

SUMMARY = "convert a checkpoint of mmdet or another library to a model file"

_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Settings:
    """Convert a checkpoint of another library to a model file, for gcnet evaluate, predict, analyze and train.

    Nothing in the checkpoint is executed, and its keys and shapes must be exactly those of its network.

    Example:
      gcnet convert mask_rcnn_r50_fpn_r4_gcb_c3-c5_1x_coco.pth --output mask_rcnn.safetensors
    """

    checkpoint: Path = field(metadata=POSITIONAL)
    """File of torch.save or safetensors."""
    output: Path
    """New model file (.safetensors)."""
    source: str | None = field(default=None, metadata={"flag": "from"})
    """Library of the checkpoint: mmdet (2 and 3), mmdet1 (1.x and xvjiarui/GCNet), mmaction, mmpretrain, mmseg, timm
    or torchvision; by default recognized."""
    ema: bool = False
    """Convert the moving average of the weights."""

    def __post_init__(self) -> None:
        """Check the output."""
        if self.output.suffix != _SUFFIX:
            raise UserError(f"`output` is a new model file and ends in {_SUFFIX}, found {self.output}")


def run(settings: Settings) -> int:
    """Convert, print the network, and write the model file.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0.
    """
    from gcnet.models.conversion import convert_weights
    from gcnet.models.model_file import save_model

    converted = convert_weights(settings.checkpoint, settings.source, ema=settings.ema)
    print(converted)
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    save_model(converted.model, settings.output)
    print(f"\nwrote {settings.output}")
    return 0
