"""`make oracle-table`: compare with the original code, and write the tables of docs/original-code.md."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from oracle.detector_batch import SHAPES, write_batch
from oracle.detector_losses import DetectorLosses
from oracle.detector_stages import original_run, small_image
from oracle.networks import NETWORKS, compare_network
from oracle.original_code import PYTHON, OriginalCode
from oracle.table import Row, detector_rows, loss_rows, network_rows, record

LOSS_CONFIGS = ("faster-rcnn_r50_fpn", "mask-rcnn_r50_fpn", "cascade-mask-rcnn_r50_fpn")

Compare = Callable[[OriginalCode, Path, str], list[Row]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m oracle", description=__doc__)
    parser.add_argument("models", nargs="*", help="parts of names; by default all models are compared")
    parser.add_argument("--image", type=Path, help="image of the detectors; by default a generated one")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(256, 160), help="long and short side of the resized image"
    )
    options = parser.parse_args(arguments)
    if not PYTHON.exists():
        print("the original code is not installed: run make oracle", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary, OriginalCode() as original_code:
        folder = Path(temporary)
        image = options.image or small_image(folder / "scene.png")
        detector = partial(_detector, image=image, size=tuple(options.size))
        names: dict[str, Compare] = dict.fromkeys(original_code("detectors.names"), detector)
        names |= dict.fromkeys(LOSS_CONFIGS, _losses) | dict.fromkeys(NETWORKS, _network)
        for name, compare in names.items():
            if not options.models or any(part in name for part in options.models):
                rows = compare(original_code, folder, name)
                record(rows)
                print(*rows, sep="\n", flush=True)
    return 0


def _detector(original_code: OriginalCode, folder: Path, name: str, *, image: Path, size: tuple[int, int]) -> list[Row]:
    stages = original_run(original_code, folder, name, image=image, size=size)
    return detector_rows(name, stages.all_stages(), stages.whole_from_file(image))


def _losses(original_code: OriginalCode, folder: Path, name: str) -> list[Row]:
    write_batch(folder, seed=5)
    original_code("detector_losses.run", folder=folder, config=name, shapes=SHAPES, seed=7)
    losses = DetectorLosses(folder)
    return loss_rows(name, losses.differences(losses.detector()))


def _network(original_code: OriginalCode, folder: Path, name: str) -> list[Row]:
    return network_rows(name, compare_network(original_code, folder, name))


if __name__ == "__main__":
    sys.exit(main())
