"""`load_model`: networks of model files, of the Hub and of published checkpoints."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from gcnet.blocks import Builder
from gcnet.errors import UserError, printable
from gcnet.insertion import insert_record
from gcnet.insertion.attach import installed_modules, uninstall
from gcnet.models.card import check_base_weights, check_block_weights, set_card
from gcnet.models.checkpoint_cache import local_weights
from gcnet.models.model_file import load_strictly, read_model_file
from gcnet.models.registry import build_base_model
from gcnet.models.uninitialized import Uninitialized


def load_model(
    path: str | Path,
    model: nn.Module | None = None,
    *,
    builders: Mapping[str, Builder] | None = None,
    download: bool = False,
) -> nn.Module:
    """Rebuild the network of a model file with its blocks and weights.

    Args:
        path: a file of `save_model`; hf://user/name; or a published checkpoint (`gcnet models --published`), such as
            "mmdet/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco".
        model: the plain base model, for a network that `create_model` does not know; blocks are inserted in place.
        builders: builders of your own blocks, by the name in the file.
        download: download a model on the Hub, or a published checkpoint that is not in the cache.

    Returns:
        The network, in eval mode on the CPU.

    Raises:
        StorageError: the file is damaged, was edited, or is of another kind.
        UserError: not a file of this package, a missing base model or builder, or weights that do not fit. `model` is
            then unchanged.
    """
    path = local_weights(path, download=download)
    tensors, card = read_model_file(path)
    check_block_weights(card.insertions, tensors, printable(path))
    if model is None:
        if card.architecture is None:
            raise UserError(
                f"{printable(path)} holds the weights of a network of your own: pass that network, "
                "load_model(path, model)"
            )
        check_base_weights(card, tensors, printable(path))
        with Uninitialized():
            model = build_base_model(card.architecture, card.num_classes, card.detector, card.image_size)
    before = {id(module) for _, module in installed_modules(model)}
    try:
        with Uninitialized():
            for record in card.insertions:
                insert_record(model, record, builders or {})
        load_strictly(model, tensors, str(path))
    except BaseException:
        for _, module in list(installed_modules(model)):
            if id(module) not in before:
                uninstall(module)
        raise
    set_card(model, card)
    return model.eval()
