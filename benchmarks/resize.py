"""Time of the 8-bit resizing of detectors against float32 bilinear interpolation: `python -m benchmarks.resize`.

Rows alternate between the contestants; each time is the minimum over the rounds. OpenCV uses the threads of PyTorch.
"""

import argparse
import time
from collections.abc import Callable

import cv2
import torch
import torch.nn.functional as F

from gcnet.ops.opencv_resize import resize_bilinear, resize_fixed_point

_SIZES = (((480, 640), (800, 1067)), ((3000, 4000), (800, 1067)))


def main() -> None:
    """Print one line per image size."""
    parser = argparse.ArgumentParser(description="Time of resizing.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    print("from          to            interpolate float32   8-bit with OpenCV   8-bit without   (ms)")
    for old, new in _SIZES:
        times = _times(old, new, arguments.rounds)
        print(f"{old[1]}x{old[0]}".ljust(14) + f"{new[1]}x{new[0]}".ljust(14), *(f"{value:18.2f}" for value in times))


def _times(old: tuple[int, int], new: tuple[int, int], rounds: int) -> list[float]:
    levels = torch.randint(0, 256, (3, *old), dtype=torch.uint8)
    image = levels[None].float()
    contestants: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: F.interpolate(image, new, mode="bilinear", align_corners=False),
        lambda: resize_bilinear(levels, *new),
        lambda: resize_fixed_point(levels, *new),
    )
    best = [float("inf")] * len(contestants)
    for _ in range(rounds):
        for index, contestant in enumerate(contestants):
            start = time.perf_counter()
            contestant()
            best[index] = min(best[index], (time.perf_counter() - start) * 1000)
    return best


if __name__ == "__main__":
    main()
