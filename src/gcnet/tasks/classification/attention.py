"""Attention maps of a classifier on an image file."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from gcnet.analysis.capture import capture, describe_unread
from gcnet.analysis.readers import Adapter
from gcnet.data.decode import open_image
from gcnet.data.settings import Preprocessing
from gcnet.data.transforms import Normalize, resize_and_crop
from gcnet.errors import UserError
from gcnet.models.outputs import evaluating
from gcnet.tasks.trained import TrainedClassifier
from gcnet.visualization.attention_maps import ImageMaps, layer_maps


def look_at(
    network: TrainedClassifier,
    path: Path,
    preprocessing: Preprocessing,
    *,
    adapters: Mapping[type[nn.Module], Adapter] | None = None,
) -> ImageMaps:
    """What a classifier attends to in an image file; its output must be one vector of logits.

    Raises:
        ImageError: the file cannot be read.
        UserError: the network's outputs are not finite.
    """
    image = resize_and_crop(open_image(path, bit_depth=preprocessing.bit_depth), preprocessing)
    pixels = Normalize(preprocessing.mean, preprocessing.std)(image)
    device = next(network.model.parameters()).device
    with evaluating(network.model), capture(network.model, adapters=adapters) as found:
        scores = network.model(pixels[None].to(device))[0].float().softmax(0)
    if not bool(scores.isfinite().all()):
        raise UserError(f'the network\'s outputs must be finite numbers; those for "{path}" are not')
    label = int(scores.argmax())
    answer = f"{network.names()[label]} {scores[label]:.0%}"
    layers = layer_maps(network.model, found.attention)
    unread = describe_unread(network.model, found.unread)
    return ImageMaps(path, image, label, answer, layers, tuple(found.gates), unread)
