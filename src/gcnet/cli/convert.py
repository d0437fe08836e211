"""`gcnet convert`: converts a checkpoint of another library to a model file, and back."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gcnet.arguments import POSITIONAL
from gcnet.errors import UserError, printable

if TYPE_CHECKING:
    from torch import nn

SUMMARY = "convert checkpoints of mmdet, timm and other libraries to model files, and back"

_SUFFIX = ".safetensors"
_TORCH_SUFFIXES = (".pth", ".pt")
_STATE_DICTS = ("timm", "torchvision")  # the others keep classes and positions of blocks beside the weights


@dataclass(frozen=True)
class Settings:
    """Convert a checkpoint of another library to a model file, for gcnet evaluate, predict, analyze and train.

    Nothing in the checkpoint is executed, and its keys and shapes must be exactly those of its network.

    Examples:
      gcnet convert mask_rcnn_r50_fpn_r4_gcb_c3-c5_1x_coco.pth --output mask_rcnn.safetensors
      gcnet convert timm/gcresnet50t.ra2_in1k --download --output gcresnet50t.safetensors
      gcnet convert mask_rcnn.safetensors --to mmdet --output mask_rcnn.pth
    """

    checkpoint: str = field(metadata=POSITIONAL)
    """File of torch.save or safetensors, or a published checkpoint (`gcnet models --published` lists them). With `to`,
    a model file."""
    output: Path
    """New model file (.safetensors). With `to`, a file of torch.save (.pth), for timm and torchvision also of
    safetensors."""
    source: str | None = field(default=None, metadata={"flag": "from"})
    """Library of the checkpoint: mmdet (2 and 3), mmdet1 (1.x and xvjiarui/GCNet), mmaction, mmpretrain, mmseg, timm
    or torchvision; recognized by default."""
    to: Literal["mmdet", "mmdet1", "mmpretrain", "timm", "torchvision"] | None = None
    """Write a checkpoint of this library, with bit-identical weights, from a model file."""
    ema: bool = False
    """Convert the moving average of the weights."""
    download: bool = False
    """Download a published checkpoint that is not in the cache; nothing is downloaded otherwise."""
    overwrite: bool = False
    """Overwrite an existing file of `output`."""

    def __post_init__(self) -> None:
        """Check the output, and refuse settings without effect."""
        suffixes = _TORCH_SUFFIXES if self.to else (_SUFFIX,)
        suffixes += (_SUFFIX,) if self.to in _STATE_DICTS else ()
        if self.output.suffix not in suffixes:
            kind = "model file" if self.to is None else f"checkpoint of {self.to}"
            raise UserError(
                f"`output` must be a new {kind} ending in {' or '.join(suffixes)}, found {printable(self.output)}"
            )
        self._keep_files()
        for name in ("source", "ema"):
            if self.to is not None and getattr(self, name):
                raise UserError(f"`{name}` cannot be combined with `to`, which takes a model file")
        if self.download:
            from gcnet.data.downloads import check_download

            check_download((self.checkpoint,))

    def _keep_files(self) -> None:
        """Refuse to replace the checkpoint, and other files without `overwrite`."""
        if not self.output.is_file():
            return
        if os.path.exists(self.checkpoint) and self.output.samefile(self.checkpoint):
            raise UserError(
                f"`output` must be another file than the checkpoint, found {printable(self.output)} for both"
            )
        if not self.overwrite:
            raise UserError(f"`output`: {printable(self.output)} exists already; `overwrite` replaces it")


def run(settings: Settings) -> int:
    """Convert, print the network, and write the file.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0.
    """
    from gcnet.models.checkpoint_cache import original_file
    from gcnet.models.conversion import convert_weights
    from gcnet.models.load import load_model
    from gcnet.models.model_file import save_model

    if settings.to is not None:
        _write_checkpoint(load_model(settings.checkpoint, download=settings.download), settings.to, settings.output)
    else:
        path, source = original_file(settings.checkpoint, settings.source, download=settings.download)
        converted = convert_weights(path, source, ema=settings.ema)
        print(converted)
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        save_model(converted.model, settings.output)
    print(f"\nwrote {settings.output}")
    return 0


def _write_checkpoint(model: "nn.Module", library: str, output: Path) -> None:
    import io

    import torch
    from safetensors.torch import save

    from gcnet.models.card import card_of
    from gcnet.models.library_checkpoints import to_library_checkpoint
    from gcnet.storage import write_atomic

    content = to_library_checkpoint(model, library)
    print(f"network: {card_of(model).architecture}\ncheckpoint of {library}, converted back without a difference")
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == _SUFFIX:
        write_atomic(output, save({name: tensor.contiguous() for name, tensor in content.items()}))
        return
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(output, buffer.getvalue())
