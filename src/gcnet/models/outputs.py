"""Outputs of classifiers: logits, with those of auxiliary heads, and inference in evaluation mode."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gcnet.errors import UserError, raise_if_out_of_memory
from gcnet.insertion.model_copies import UncopyableNetwork, in_place, on_meta

# The weight of each auxiliary loss, by the type that torchvision's networks return in training: 0.3 as in section 5 of
# GoogLeNet (arXiv 1409.4842), 0.4 as in PyTorch's fine-tuning tutorial for Inception v3.
_AUXILIARY = {
    "GoogLeNetOutputs": (("aux_logits1", 0.3), ("aux_logits2", 0.3)),
    "InceptionOutputs": (("aux_logits", 0.4),),
}
_KEYS = ("logits", "out", "output")
# Errors of networks for unsupported image sizes.
_RUN_FAILURES = (AssertionError, RuntimeError, ValueError, IndexError, TypeError, ZeroDivisionError)


@dataclass(frozen=True)
class ClassOutputs:
    """Logits of a classifier.

    Attributes:
        logits: (N, K).
        auxiliary: loss weight and logits (N, K) of each auxiliary head.
    """

    logits: Tensor
    auxiliary: tuple[tuple[float, Tensor], ...] = ()


def class_outputs(output: object) -> ClassOutputs:
    """Return the logits in the output of a classifier.

    Args:
        output: logits (N, K); a named tuple of torchvision's GoogLeNet or Inception v3, whose auxiliary logits count in
            training; a mapping or object with an entry `logits` (or `out`, `output`), as of Hugging Face; or a tuple or
            list that begins with the logits.

    Raises:
        UserError: it has no logits.
    """
    kind = type(output).__name__
    logits = _logits(output)
    if logits is None or logits.dim() != 2 or not logits.is_floating_point():
        shown = f"a tensor of shape {tuple(logits.shape)}" if logits is not None else f"a {kind}"
        forms = "alone, first in a tuple or under the key logits"
        raise UserError(f"a classifier must return logits (N, classes), {forms}; found {shown}")
    pairs = ((weight, getattr(output, name, None)) for name, weight in _AUXILIARY.get(kind, ()))
    return ClassOutputs(logits, tuple((weight, value) for weight, value in pairs if isinstance(value, Tensor)))


def _logits(output: object) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    for key in _KEYS:
        value = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if isinstance(value, Tensor):
            return value
    is_sequence = isinstance(output, Sequence) and not isinstance(output, str)
    return output[0] if is_sequence and output and isinstance(output[0], Tensor) else None


def check_classifier(network: nn.Module, image_size: int, num_classes: int) -> None:
    """Run a copy of a network in evaluation and in training mode to check its input and output.

    The copy is on the meta device and needs neither memory nor arithmetic; a network that does not run there is run
    itself, in evaluation mode.

    Args:
        network: the classifier; unchanged, as is the random state of torch.
        image_size: side of the square images in pixels.
        num_classes: expected number of logits.

    Raises:
        UserError: it does not run on images of this size, or returns another number of logits.
    """
    logits = class_outputs(_answer(network, image_size)).logits
    if logits.shape[1] != num_classes:
        raise UserError(
            f"the network must have one output per class, found {logits.shape[1]} outputs and {num_classes} classes"
        )


def _answer(network: nn.Module, image_size: int) -> object:
    """The output in evaluation mode, after which training mode was tried too."""
    try:
        with on_meta(network) as copy:
            output = _run(copy, image_size, torch.device("meta"))
    except Exception:  # networks fail in any way on the meta device; the real run decides
        device = next((value.device for value in network.parameters()), torch.device("cpu"))
        try:
            with in_place(network):
                return _run(network, image_size, device)
        except _RUN_FAILURES as error:
            raise_if_out_of_memory(error)
            raise _unsuited(network, image_size, error) from error
    try:
        with on_meta(network) as copy:
            class_outputs(_run(copy.train(), image_size, torch.device("meta")))
    except (NotImplementedError, UncopyableNetwork):
        pass  # Some operation of training does not run on the meta device, or there is no copy.
    except UserError:
        raise
    except _RUN_FAILURES as error:
        raise_if_out_of_memory(error)
        raise _unsuited(network, image_size, error) from error
    return output


def _run(network: nn.Module, image_size: int, device: torch.device) -> object:
    dtype = next((value.dtype for value in network.parameters() if value.is_floating_point()), torch.float32)
    images = torch.zeros(2, 3, image_size, image_size, dtype=dtype, device=device)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return network(images)


def _unsuited(network: nn.Module, image_size: int, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    size = default_image_size(network)
    remedy = f"`image_size={size}`" if size and size != image_size else "another `image_size`"
    takes = f"; it is built for {size} x {size}" if size and size != image_size else ""
    return UserError(
        f"{type(network).__name__} cannot run on images of {image_size} x {image_size} pixels{takes}: give {remedy} "
        f"({reason})"
    )


def default_image_size(network: nn.Module) -> int | None:
    """Return the image size in pixels that `network` declares, None if it does not."""
    for owner in (getattr(network, "patch_embed", None), network):
        for name in ("img_size", "image_size"):
            size = getattr(owner, name, None)
            size = size[0] if isinstance(size, Sequence) and size and not isinstance(size, str) else size
            if isinstance(size, int):
                return size
    config = getattr(network, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else None
    return size[-1] if size else None


@contextmanager
def evaluating(model: nn.Module) -> Generator[nn.Module]:
    """Use `model` in evaluation mode without gradients; modes of all modules are restored afterwards.

    Yields:
        The network, inside its DistributedDataParallel wrapper if there is one.
    """
    # DistributedDataParallel exchanges buffers at every call, so processes with unequal numbers of batches would hang.
    network = model.module if isinstance(model, DistributedDataParallel) else model
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        with torch.no_grad():
            yield network
    finally:
        for module, training in modes:
            module.training = training


def class_scores(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
) -> Float[Tensor, "n k"]:
    """Return the logits of a batch, in float32 on the CPU.

    Args:
        model: the classifier.
        images: preprocessed images.
        device: of the model.
        autocast: half-precision dtype of autocast; None for none.
    """
    place = torch.device(device)
    with torch.autocast(place.type, dtype=autocast, enabled=autocast is not None):
        scores = class_outputs(model(images.to(place, non_blocking=True))).logits
    return scores.float().cpu()
