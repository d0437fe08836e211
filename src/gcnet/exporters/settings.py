"""Settings of `gcnet export`; imports neither torch nor numpy."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gcnet.arguments import POSITIONAL, advanced, check_choices
from gcnet.data.downloads import check_download
from gcnet.data.settings import LARGEST_SIDE
from gcnet.errors import UserError, no_folder, printable, unknown

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "openvino": ".xml"}
"""File suffix of each format."""

DYNAMIC = ("batch", "size")
"""Dynamic axes: batch size; height and width."""


@dataclass(frozen=True)
class ExportSettings:
    """Export a trained model for other runtimes, and compare the outputs of the file with PyTorch's.

    The file takes images (N, 3, H, W), RGB in [0, 1]; normalization is part of it. Class names, preprocessing and the
    SHA-256 of the model file are in its metadata. If the outputs differ by more than the tolerance, nothing is written
    and the exit code is 1.

    Examples:
      gcnet export runs/first --output first.onnx
      gcnet export runs/first --precision int8 --calibrate photos --output small.onnx
      gcnet export detector.safetensors --format openvino --images photos
    """

    model: str = field(metadata=POSITIONAL)
    """Model file, run folder (its best weights are used), model on the Hugging Face Hub (hf://user/name), published
    checkpoint (`gcnet models --published` lists them), or a model name with `weights`."""
    output: Path | None = None
    """File to write (default: name of the model with the suffix of the format, in the current folder)."""
    format: Literal["onnx", "torch-export", "openvino"] | None = None
    """Format: onnx (.onnx), torch-export (.pt2) or openvino (.xml and .bin) (default: by the suffix of `output`, else
    onnx)."""
    image_size: tuple[int, ...] = ()
    """Height and width of the images in pixels, or one number for both (default: the model's)."""
    dynamic: str | None = None
    """Axes of any length: batch, size, batch,size or none (default: batch for classifiers, batch,size for
    detectors)."""
    precision: Literal["float32", "fp16", "int8"] = "float32"
    """Precision of the weights; int8 is for classifiers in onnx and needs `calibrate`."""
    calibrate: Path | None = None
    """Folder of images whose activations set the int8 scales; accuracy before and after is printed if it has class
    folders."""
    images: tuple[Path, ...] = ()
    """Images or folders to compare outputs on (default: those of `calibrate`, or generated images)."""
    fuse: bool = advanced(True)
    """Export a fused copy of the network (gcnet.fuse): faster, with the same outputs up to rounding."""
    tolerance: float | None = advanced(None)
    """Largest difference of scores from PyTorch's (default: 1e-4; 0.01 for fp16, 0.5 for int8)."""
    weights: str | None = None
    """Weights for a model given by name: a file, "pretrained", a published version such as IMAGENET1K_V1, hf://user/name,
    or a published checkpoint."""
    download: bool = False
    """Download a model on the Hub or published weights; nothing is downloaded otherwise."""
    overwrite: bool = False
    """Overwrite existing files of `output`."""

    def __post_init__(self) -> None:
        """Refuse invalid settings, before anything is loaded."""
        check_choices(self)
        if self.download:
            check_download((self.model,), weights=(self.weights,))
        self._check_output()
        self._check_image()
        self._check_precision()

    @property
    def format_name(self) -> str:
        """Name of the format."""
        suffix = self.output.suffix.lower() if self.output else ""
        return self.format or next((name for name, other in SUFFIXES.items() if other == suffix), "onnx")

    @property
    def file(self) -> Path:
        """File to write."""
        suffix = SUFFIXES[self.format_name]
        name = os.path.basename(os.path.abspath(self.model))
        return self.output or Path(name.removesuffix(".safetensors") + suffix)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files to write: of OpenVINO also the weights."""
        return (self.file, *([self.file.with_suffix(".bin")] if self.format_name == "openvino" else []))

    def dynamic_axes(self, default: str) -> tuple[str, ...]:
        """Return the dynamic axes, in the order of `DYNAMIC`.

        Args:
            default: value of `dynamic` if it is not given.
        """
        names = (self.dynamic if self.dynamic is not None else default).replace(" ", "").split(",")
        return tuple(name for name in DYNAMIC if name in names)

    def _check_output(self) -> None:
        if self.file.suffix.lower() != SUFFIXES[self.format_name]:
            formats = {self.format: SUFFIXES[self.format]} if self.format else SUFFIXES
            expected = " or ".join(f"{suffix} (format {name})" for name, suffix in formats.items())
            raise UserError(f"`output` must end in {expected}, found {printable(self.file)}")
        for file in self.files:
            if file.exists() and not self.overwrite:
                raise UserError(f"`output`: {printable(file)} exists already; `overwrite` replaces it")
            if any(os.path.realpath(source) == os.path.realpath(file) for source in (self.model, self.weights or "")):
                raise UserError(f"`output` must not replace the weights, found {printable(file)} for both")

    def _check_image(self) -> None:
        sides = self.image_size
        if len(sides) > 2 or not all(0 < side <= LARGEST_SIDE for side in sides):
            found = " ".join(map(str, sides))
            raise UserError(f"`image_size` must be one or two sides of 1 to {LARGEST_SIDE:,} pixels, found {found}")
        names = (self.dynamic or "none").replace(" ", "").split(",")
        for name in names:
            if name not in (*DYNAMIC, "none"):
                raise unknown("axis of `dynamic`", name, (*DYNAMIC, "none"))
        if "none" in names and len(names) > 1:
            raise UserError(f"`dynamic=none` excludes other axes, found {self.dynamic}")

    def _check_precision(self) -> None:
        is_int8 = self.precision == "int8"
        if is_int8 and self.format_name != "onnx":
            raise UserError(f"`precision=int8` requires `format=onnx`, found `format={self.format_name}`")
        if is_int8 and self.calibrate is None:
            raise UserError("`precision=int8` requires `calibrate`, a folder of images like those of its use")
        if self.calibrate is not None and not self.calibrate.is_dir():
            raise UserError(f"`calibrate` takes a folder of images, but {no_folder(self.calibrate)}")
        if self.calibrate is not None and not is_int8:
            raise UserError(f"`calibrate` requires `precision=int8`, found `precision={self.precision}`")
        if self.tolerance is not None and not self.tolerance > 0:
            raise UserError(f"`tolerance` must be above 0, found {self.tolerance:g}")
