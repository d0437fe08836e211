"""A network as a static graph, as each task makes it for export."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from gcnet.data.images.image_input import ImageInput

INPUT_NAME = "images"
"""Name of the input: images (N, 3, H, W) float32, RGB in [0, 1]."""

AXIS_NAMES = {"batch": {0: "batch"}, "size": {2: "height", 3: "width"}}
"""Names of the axes of the input by index, for each value of `ExportSettings.dynamic`."""


@dataclass(frozen=True)
class ExportGraph:
    """A network as a static graph, from a tensor of images to a tuple of tensors, without data-dependent control flow.

    Attributes:
        module: on the CPU and in eval mode, images (N, 3, H, W) float32 in [0, 1] -> tuple of tensors.
        output_names: name of each output.
        example: images of the traced shape, at least 2 where the batch size is dynamic.
        prepare: reads an image as float32 (3, H, W) in [0, 1], of the size of `example` if the size is not dynamic.
        dynamic_axes: names of the dynamic axes of the input by index, parts of `AXIS_NAMES`.
        reference: PyTorch's outputs, with which those of the file are compared (default: those of `module`).
        metadata: entries of the task as text: class names, preprocessing.
        tolerances: largest difference of each compared quantity.
        differences: largest difference of each compared quantity between two results of the same images: expected
            outputs and those of the file. By default, the largest absolute difference of each output by its name.
        count: number of detections in a result that are compared; None if whole images are.
    """

    module: nn.Module
    output_names: tuple[str, ...]
    example: Tensor
    prepare: Callable[[ImageInput], Tensor]
    dynamic_axes: Mapping[int, str] = field(default_factory=dict)
    reference: Callable[[Tensor], Sequence[Tensor]] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    tolerances: Mapping[str, float] = field(default_factory=dict)
    differences: Callable[[Sequence[Tensor], Sequence[Tensor]], Mapping[str, float]] | None = None
    count: Callable[[Sequence[Tensor]], int] | None = None

    def compare(self, expected: Sequence[Tensor], outputs: Sequence[Tensor]) -> Mapping[str, float]:
        """Return the largest difference of each compared quantity between two results of the same images.

        Args:
            expected: outputs of `module`.
            outputs: outputs of the exported file.
        """
        if self.differences is not None:
            return self.differences(expected, outputs)
        pairs = zip(self.output_names, expected, outputs, strict=True)
        return {name: float((one.double() - other.double()).abs().max()) for name, one, other in pairs}


def dynamic_axes(dynamic: Sequence[str]) -> dict[int, str]:
    """Return the names of the dynamic axes of the input by index.

    Args:
        dynamic: keys of `AXIS_NAMES`.
    """
    return {index: name for key in dynamic for index, name in AXIS_NAMES[key].items()}
