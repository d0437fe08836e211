"""How the costs of a task's networks are measured: image sizes, stages, and runs with a fixed amount of work."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

from gcnet.analysis.cost import count_flops
from gcnet.analysis.cost_breakdown import image_stages, run_images


class NetworkCosts(ABC):
    """Costs of networks that map images (N, 3, H, W) to outputs; tasks with other networks override more methods.

    Attributes:
        step_images: batch size of the training step for `gcnet cost`.
        timed_images: maximum batch size for time measurements of `gcnet compare`.
        timed_input: content of such a batch, in words.
        counted_image: image size for FLOPs, in words.
        has_fixed_size: whether some of the networks are built for one image size (ViT, Swin, ...).
        flops_note: note on FLOPs for `gcnet models`, or an empty string.
        notes: notes on the numbers of `gcnet cost`.
    """

    step_images: ClassVar[int]
    timed_images: ClassVar[int]
    timed_input: ClassVar[str] = "images"
    counted_image: ClassVar[str] = "the input size"
    has_fixed_size: ClassVar[bool] = False
    flops_note: ClassVar[str] = ""
    notes: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def default_image_size(self, name: str, model: nn.Module) -> tuple[int, int]:
        """Return the default image size for FLOPs, height and width in pixels.

        Args:
            name: network name.
            model: the network.
        """

    def count_flops(self, model: nn.Module, size: tuple[int, int]) -> int:
        """Return the FLOPs of one image; a multiply-add counts as two.

        Args:
            model: the network.
            size: height and width in pixels.
        """
        return count_flops(model, (1, 3, *size))

    def stages(self, model: nn.Module) -> dict[str, str]:
        """Return the stage of each module of `model` by module path, in the order of the network."""
        return image_stages(model)

    def run_on_meta(self, skeleton: Any, size: tuple[int, int], images: int) -> None:
        """Run a forward pass on the meta device, with a fixed amount of work.

        Args:
            skeleton: network on the meta device.
            size: height and width in pixels.
            images: batch size.
        """
        run_images(skeleton, size, images)

    def body(self, model: nn.Module, size: tuple[int, int]) -> tuple[nn.Module, str, tuple[int, int]]:
        """Return the part of a network that contains the blocks.

        Args:
            model: the network.
            size: height and width of the images in pixels.

        Returns:
            The module, its path with a final dot or "", and the height and width of its input in pixels.
        """
        return model, "", size

    def measured(
        self,
        model: nn.Module,
        num_classes: int,  # noqa: ARG002
        size: tuple[int, int] | None = None,  # noqa: ARG002
    ) -> nn.Module:
        """Return a network for measuring time and memory, whose work does not depend on the weights.

        Args:
            model: the network; it may be modified.
            num_classes: number of classes.
            size: height and width of images in pixels, to disable resizing.

        Returns:
            A network that takes images (N, 3, H, W).
        """
        return model
