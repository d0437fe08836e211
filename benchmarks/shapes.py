"""The sizes that are measured: of maps (N, C, H, W), networks and detectors; real ones, and tiny ones for tests."""

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """Maps are (N, C, H, W); images are squares of so many pixels, `step_batch` of them in a step of every block."""

    maps: tuple[Shape, ...]
    host: str
    pixels: int
    batches: tuple[int, ...]
    step_batch: int
    non_local: Shape
    concatenation: Shape
    concatenation_gradients: Shape
    doubling: tuple[Shape, ...]
    detectors: tuple[str, ...]
    detector_image: tuple[int, int]
    detector_pixels: int
    detector_rois: int
    loader_images: int


def doublings(shape: Shape, count: int) -> tuple[Shape, ...]:
    """A map (N, C, H, W), and `count` more with twice the positions of the one before, by turns wider and higher."""
    images, channels, height, width = shape
    return tuple(
        (images, channels, height * 2 ** (turn // 2), width * 2 ** ((turn + 1) // 2)) for turn in range(count + 1)
    )


# The four stages of ResNet-50 at 224 pixels, and three of them at the 800 x 1344 of detectors (strides 4, 8 and 16).
_STAGES = ((8, 256, 56, 56), (8, 512, 28, 28), (8, 1024, 14, 14), (8, 2048, 7, 7))
_DETECTOR_STAGES = ((1, 256, 200, 336), (1, 512, 100, 168), (1, 1024, 50, 84))

REAL = Sizes(
    maps=_STAGES + _DETECTOR_STAGES,
    host="resnet50",
    pixels=224,
    batches=(1, 8),
    step_batch=4,
    non_local=(1, 256, 100, 168),
    concatenation=(1, 256, 28, 28),
    concatenation_gradients=(1, 256, 56, 56),
    doubling=doublings((1, 256, 28, 28), 5),
    detectors=("mask_rcnn_resnet50", "mask_rcnn_gc_resnet50"),
    detector_image=(800, 1333),
    detector_pixels=384,
    detector_rois=128,
    loader_images=512,
)

QUICK = Sizes(
    maps=((2, 64, 5, 7), (1, 128, 3, 5)),
    host="resnet18",
    pixels=32,
    batches=(1, 2),
    step_batch=2,
    non_local=(1, 64, 5, 7),
    concatenation=(1, 64, 3, 5),
    concatenation_gradients=(1, 64, 5, 7),
    doubling=doublings((1, 64, 3, 5), 2),
    detectors=("mask_rcnn_scenes_resnet", "mask_rcnn_gc_scenes_resnet"),
    detector_image=(64, 96),
    detector_pixels=64,
    detector_rois=8,
    loader_images=64,
)
